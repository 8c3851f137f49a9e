// Package failpoint names the instants at which a test may kill the process,
// and gives it its clock. Nothing of it is in an ordinary build: only with the
// build tag failpoint do points kill, and is the clock one that a test moves.
package failpoint
