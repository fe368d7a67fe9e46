package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// write lays out a module: file name → text.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	files["go.mod"] = "module m\n\ngo 1.25\n"
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// goTest runs the real go test over the module and returns the account (what follows the last empty line) and all that was printed.
func goTest(t *testing.T, files map[string]string) (status int, account, all string) {
	t.Helper()
	t.Chdir(write(t, files))
	t.Setenv("GOFLAGS", "")
	t.Setenv("GOWORK", "off")
	var b strings.Builder
	status = run(&b, "go", "test", "-json", "-count=1", "-p=1", "./...")
	all = b.String()
	i := strings.LastIndex(all, "\n\n")
	if i < 0 {
		t.Fatalf("no account in %q", all)
	}
	return status, all[i+2:], all
}

const head = "package p\n\nimport \"testing\"\n\n"

func TestPass(t *testing.T) {
	status, account, all := goTest(t, map[string]string{
		"p/p_test.go": head + `
func TestA(t *testing.T) {}
func TestB(t *testing.T) {
	t.Run("one", func(t *testing.T) {})
	t.Run("two", func(t *testing.T) { t.Log("some"); t.Skip("no", "kernel") })
	t.Run("x/y", func(t *testing.T) {})
}
func TestC(t *testing.T) { t.SkipNow() }
func FuzzD(f *testing.F) { f.Add(1); f.Fuzz(func(*testing.T, int) {}) }
`,
		"q/q.go":      "package q\n",
		"r/r_test.go": "package r\n",
	})
	want := `without: m/q: no test files
without: m/r: no tests to run
skipped: m/p TestB/two: some no kernel
skipped: m/p TestC: no reason given
4 passed, 0 failed, 2 skipped
`
	if status != 0 || account != want {
		t.Errorf("exit status %d, account\n%s\nwant 0 and\n%s\nall\n%s", status, account, want, all)
	}
	if !strings.Contains(all, "ok   m/p  (4 passed, 0 failed, 2 skipped)  ") {
		t.Errorf("no line for the package:\n%s", all)
	}
}

func TestFail(t *testing.T) {
	status, account, all := goTest(t, map[string]string{
		"a/p_test.go": head + "func TestA(t *testing.T) {}\nfunc TestB(t *testing.T) { t.Run(\"c\", func(t *testing.T) { t.Error(\"seven of nine\") }) }\n",
		"b/p_test.go": head + "func TestA(t *testing.T) {}\nfunc TestB(t *testing.T) { panic(\"at the disco\") }\n",
		"c/p_test.go": head + "func TestA(t *testing.T) { undefined() }\n",
		"d/p_test.go": "package p\n\nimport (\"os\"; \"testing\")\n\nfunc TestMain(m *testing.M) { os.Exit(0) }\nfunc TestA(t *testing.T) {}\n",
		"e/p_test.go": "package p\n\nimport (\"os\"; \"testing\")\n\nfunc TestMain(m *testing.M) { m.Run(); println(\"left behind\"); os.Exit(3) }\nfunc TestA(t *testing.T) {}\n",
	})
	want := `failed:  m/a TestB/c
failed:  m/b TestB
failed:  m/c: does not build
failed:  m/d: passed without running a test
failed:  m/e: failed outside of its tests
3 passed, 5 failed, 0 skipped
`
	if status != 1 || account != want {
		t.Errorf("exit status %d, account\n%s\nwant 1 and\n%s\nall\n%s", status, account, want, all)
	}
	for _, s := range []string{"seven of nine", "at the disco", "undefined: undefined", "left behind"} {
		if !strings.Contains(all, s) {
			t.Errorf("%q is not shown:\n%s", s, all)
		}
	}
}

// A package that passes without having run its tests fails the run even though go test is content.
func TestSilent(t *testing.T) {
	status, account, _ := goTest(t, map[string]string{
		"d/p_test.go": "package p\n\nimport (\"os\"; \"testing\")\n\nfunc TestMain(m *testing.M) { os.Exit(0) }\nfunc TestA(t *testing.T) {}\n",
	})
	want := "failed:  m/d: passed without running a test\n0 passed, 1 failed, 0 skipped\n"
	if status != 1 || account != want {
		t.Errorf("exit status %d, account\n%s\nwant 1 and\n%s", status, account, want)
	}
}

// What the command says when it cannot even start, and its exit status, come through.
func TestCommand(t *testing.T) {
	var b strings.Builder
	status := run(&b, "sh", "-c", "echo not an event; exit 7")
	want := "not an event\n\nfailed:  the test command: exit status 7\n0 passed, 1 failed, 0 skipped\n"
	if status != 7 || b.String() != want {
		t.Errorf("exit status %d, %q; want 7, %q", status, b.String(), want)
	}
	b.Reset()
	if status := run(&b, "true"); status != 1 {
		t.Errorf("nothing tested: exit status %d, %q; want 1", status, b.String())
	}
	if status := run(&b, "/nonexistent"); status != 1 {
		t.Errorf("no such command: exit status %d; want 1", status)
	}
}

// Tests that were running when the command died are failures, with what they had printed.
func TestCutOff(t *testing.T) {
	var b strings.Builder
	status := run(&b, "sh", "-c", `echo '{"Action":"run","Package":"m","Test":"TestA"}
{"Action":"output","Package":"m","Test":"TestA","Output":"halfway\n"}'; kill -9 $$`)
	for _, s := range []string{"halfway\n", "failed:  m TestA\n", "\n0 passed, 1 failed, 0 skipped\n"} {
		if !strings.Contains(b.String(), s) {
			t.Errorf("%q is not in\n%s", s, b.String())
		}
	}
	if status != 1 {
		t.Errorf("exit status %d, want 1", status)
	}
}
