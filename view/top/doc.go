// Package top is the live view of a running kstatd: its rates and totals by
// protocol and family, in a terminal.
//
//	stats.json ──▶ meter: rates, histories ──▶ frame ──▶ layout, styles ──▶ bubbletea
//	start, counter, reset ◀── keys
//
// Once an interval the tree is read, by a goroutine of bubbletea's, so that a
// kstatd which does not answer does not hold up the view. Rates come from the
// totals that no reset touches, and from this process's monotonic clock.
//
// All else is in one goroutine, that of bubbletea's loop: [Top.Run] returns
// when somebody has quit.
package top
