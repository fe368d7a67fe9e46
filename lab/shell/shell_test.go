package shell

import (
	"os/exec"
	"testing"
)

func TestQuote(t *testing.T) {
	for word, want := range map[string]string{
		"/proc/kstat/nout":           "/proc/kstat/nout",
		"--listen=user@[::1]:9469":   "'--listen=user@[::1]:9469'",
		"-x,a+b%1=2@h:/_.":           "-x,a+b%1=2@h:/_.",
		"":                           "''",
		"a b":                        "'a b'",
		"two\nlines":                 "'two\nlines'",
		"it's":                       `'it'\''s'`,
		"'":                          `''\'''`,
		"$HOME":                      "'$HOME'",
		"~":                          "'~'",
		"*":                          "'*'",
		`back\slash "and" #more; |&`: `'back\slash "and" #more; |&'`,
		"é":                          "'é'",
		"\xff":                       "'\xff'",
	} {
		got := Quote(word)
		if got != want {
			t.Errorf("%q is %s, want %s", word, got, want)
		}
		for _, shell := range []string{"sh", "bash"} {
			if said, err := exec.Command(shell, "-c", "printf %s "+got).Output(); err != nil || string(said) != word {
				t.Errorf("%s takes %s for %q: %v", shell, got, said, err)
			}
		}
	}
}
