package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// tools is the directory of compiled programs. What could not be built has a file NAME.error in its stead, so that the
// inner bench can say why a line is missing.
type tools string

func (t tools) path(name string) string { return filepath.Join(string(t), name) }

func (t tools) missing(name string) error {
	text, err := os.ReadFile(t.path(name) + ".error")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.New(string(text))
}

// module is what the bench needs of `go list -m -json`.
type module struct{ Dir string }

// moduleDir is where bench/ is; the sources are compiled from there.
func moduleDir(ctx context.Context) (string, error) {
	text, err := command(ctx, "go", "list", "-m", "-json")
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	var m module
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return m.Dir, nil
}

// build compiles everything. Only what no row can do without is an error.
func (t tools) build(ctx context.Context) error {
	for _, name := range []string{"floor", "blaster", "ping", "stream", "reader"} {
		if err := t.compile(ctx, name); err != nil {
			return err
		}
	}
	if _, err := command(ctx, "go", "build", "-o", t.path("stock"), "./bench/stock"); err != nil {
		return err
	}
	if err := t.note("twin", t.buildTwin(ctx)); err != nil {
		return err
	}
	_, err := command(ctx, "go", "test", "-c", "-o", t.path("hook.test"), "./hook")
	if err == nil {
		if _, missing := os.Stat(t.path("hook.test")); missing != nil { // go test says nothing of it
			err = errors.New("package hook has no tests")
		}
	}
	return t.note("hook.test", err)
}

func (t tools) buildTwin(ctx context.Context) error {
	flags, err := command(ctx, "pkg-config", "--cflags", "--libs", "fuse3")
	if err != nil {
		return fmt.Errorf("libfuse3's development files: %w", err)
	}
	return t.compile(ctx, "twin", strings.Fields(flags)...)
}

func (t tools) compile(ctx context.Context, name string, flags ...string) error {
	args := []string{"-O2", "-Wall", "-o", t.path(name), filepath.Join("bench", "c", name+".c")}
	_, err := command(ctx, "gcc", append(args, flags...)...)
	return err
}

// note leaves the reason why a tool is missing.
func (t tools) note(name string, reason error) error {
	if reason == nil {
		return nil
	}
	return os.WriteFile(t.path(name)+".error", []byte(reason.Error()), 0o644)
}

// command runs a program in the module's directory and answers its standard output.
func command(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %.300s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}
