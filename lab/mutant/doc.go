// Package mutant makes modules that are wrong, each in one way: a grading
// script that finds nothing wrong with them does not look closely enough.
//
// A fault lies at the seam between the figures and the files: packets are seen
// as ever, and what nout, counter and start make of them is wrong.
package mutant
