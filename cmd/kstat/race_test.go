//go:build race

package main

// raceEnabled says that this runs under the race detector, which makes
// everything slower.
const raceEnabled = true
