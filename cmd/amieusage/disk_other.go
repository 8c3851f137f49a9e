//go:build !unix

package main

import "errors"

// freeBytes returns the room in a folder.
func freeBytes(string) (int64, error) { return 0, errors.ErrUnsupported }
