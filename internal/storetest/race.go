//go:build race

package storetest

// maxChecks keeps the model tests short where the race detector makes them
// slow, and has nothing to find: they work in one goroutine.
const maxChecks = 15
