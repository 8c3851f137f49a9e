//go:build race

package storetest

// maxChecks keeps the model tests short where the race detector makes them
// slow.
const maxChecks = 8
