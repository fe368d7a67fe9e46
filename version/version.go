// Package version is what the programs say that they are.
package version

import "runtime/debug"

// stamp is set by the linker: -X kstat/version.stamp=v0.1.0.
var stamp string

// String returns what was built: the linker's word, else what the go command
// recorded, else "unknown".
func String() string {
	if stamp != "" {
		return stamp
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
