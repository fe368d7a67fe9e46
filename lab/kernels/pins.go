package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// pinned says which packages there are: name, sha256 and address on a line each, as [repin] writes them.
//
//go:embed pins
var pinned string

// pin is a package of Debian's or Ubuntu's. Its name is that of a kernel, or tools-ARCH for what is beside the kernel.
type pin struct{ name, sha256, url string }

func (p pin) file() string { return p.url[strings.LastIndexByte(p.url, '/')+1:] }

// pins lists what is pinned, in the order of the file.
func pins() ([]pin, error) {
	var all []pin
	for s := bufio.NewScanner(strings.NewReader(pinned)); s.Scan(); {
		line, _, _ := strings.Cut(s.Text(), "#")
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0:
		case len(fields) != 3 || len(fields[1]) != 2*sha256.Size:
			return nil, fmt.Errorf("pins: not name, sha256, address: %q", s.Text())
		default:
			all = append(all, pin{fields[0], fields[1], fields[2]})
		}
	}
	return all, nil
}

// fetch returns the paths of the packages pinned under name. What is not in the directory yet, with the right sum, is
// downloaded.
func fetch(dir, name string) ([]string, error) {
	all, err := pins()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	var paths []string
	for _, p := range all {
		if p.name != name {
			continue
		}
		path := filepath.Join(dir, p.sha256[:12]+"-"+p.file())
		if err := ensure(p, path); err != nil {
			return nil, fmt.Errorf("%s: %w", p.url, err)
		}
		paths = append(paths, path)
	}
	if paths == nil {
		return nil, fmt.Errorf("no package is pinned for %s", name)
	}
	return paths, nil
}

// ensure makes path the pinned package.
func ensure(p pin, path string) error {
	if f, err := os.Open(path); err == nil {
		sum := sha256.New()
		_, err := io.Copy(sum, f)
		f.Close()
		if err == nil && hex.EncodeToString(sum.Sum(nil)) == p.sha256 {
			return nil
		}
	}
	fmt.Println("download", p.file())
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	body, err := get(ctx, p.url)
	if err != nil {
		return err
	}
	defer body.Close()
	f, err := os.CreateTemp(filepath.Dir(path), "part-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, sum), body)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != p.sha256 {
		return fmt.Errorf("sha256 is %s, pinned is %s", got, p.sha256)
	}
	return os.Rename(f.Name(), path)
}

// get asks for a page. One that is gone from the mirror is told as such.
func get(ctx context.Context, url string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	switch answer.StatusCode {
	case http.StatusOK:
		return answer.Body, nil
	case http.StatusNotFound:
		err = errors.New("the mirror has it no more: go run ./lab/kernels -pin takes what there is now")
	default:
		err = errors.New(answer.Status)
	}
	answer.Body.Close()
	return nil, err
}
