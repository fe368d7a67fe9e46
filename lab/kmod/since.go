package kmod

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
)

var errTime = errors.New("not a time")

// parseTime reads the argument of --since and --until: a time, a word for one,
// or how long before or after now it is.
func parseTime(text string, now time.Time) (time.Time, error) {
	at, err := parseWhen(text, now)
	if err != nil {
		return time.Time{}, fmt.Errorf("invalid time value \"%s\"", text)
	}
	return at.Truncate(time.Second), nil
}

func parseWhen(text string, now time.Time) (time.Time, error) {
	y, m, d := now.Date()
	switch text {
	case "now":
		return now, nil
	case "today":
		return time.Date(y, m, d, 0, 0, 0, 0, now.Location()), nil
	case "yesterday":
		return time.Date(y, m, d-1, 0, 0, 0, 0, now.Location()), nil
	case "tomorrow":
		return time.Date(y, m, d+1, 0, 0, 0, 0, now.Location()), nil
	}

	before, isBefore := strings.CutPrefix(text, "-")
	if !isBefore {
		before, isBefore = strings.CutSuffix(text, " ago")
	}
	after, isAfter := strings.CutPrefix(text, "+")
	switch {
	case isAfter:
		span, err := parseSpan(after)
		return now.Add(span), err
	case isBefore:
		span, err := parseSpan(before)
		return now.Add(-span), err
	}

	for _, layout := range []string{time.DateTime, "2006-01-02T15:04:05", "2006-01-02 15:04", time.DateOnly} {
		if at, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return at, nil
		}
	}
	for _, layout := range []string{time.TimeOnly, "15:04"} {
		if at, err := time.Parse(layout, text); err == nil {
			return time.Date(y, m, d, at.Hour(), at.Minute(), at.Second(), 0, now.Location()), nil
		}
	}
	return time.Time{}, errTime
}

const (
	day   = 24 * time.Hour
	month = 2629800 * time.Second // as in systemd, from which util-linux has this
	year  = 31557600 * time.Second
)

var units = map[string]time.Duration{
	"us": time.Microsecond, "usec": time.Microsecond,
	"ms": time.Millisecond, "msec": time.Millisecond,
	"": time.Second, "s": time.Second, "sec": time.Second, "second": time.Second, "seconds": time.Second,
	"m": time.Minute, "min": time.Minute, "minute": time.Minute, "minutes": time.Minute,
	"h": time.Hour, "hr": time.Hour, "hour": time.Hour, "hours": time.Hour,
	"d": day, "day": day, "days": day,
	"w": 7 * day, "week": 7 * day, "weeks": 7 * day,
	"month": month, "months": month,
	"y": year, "year": year, "years": year,
}

// parseSpan reads a length of time, as in 1h 30min, or 90 for seconds.
func parseSpan(text string) (time.Duration, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return 0, errTime
	}
	var sum time.Duration
	for text != "" {
		rest := strings.TrimLeft(text, "0123456789.")
		number, err := strconv.ParseFloat(text[:len(text)-len(rest)], 64)
		if err != nil {
			return 0, errTime
		}
		rest = strings.TrimLeft(rest, " ")
		next := strings.TrimLeftFunc(rest, unicode.IsLetter)
		unit, ok := units[rest[:len(rest)-len(next)]]
		if !ok {
			return 0, errTime
		}
		sum += time.Duration(number * float64(unit))
		text = strings.TrimLeft(next, " ")
	}
	return sum, nil
}
