//go:build race

package storetest

// maxChecks keeps the model test short where the race detector makes it slow,
// and has nothing to find: it works in one goroutine.
const maxChecks = 15
