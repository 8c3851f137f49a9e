//go:build !race

package storetest

import "math"

const maxChecks = math.MaxInt
