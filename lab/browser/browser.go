// Package browser drives Chromium without a window, as a test or a program that
// takes pictures needs it: Debian's package, started anew, with a profile that
// goes with it.
//
// Chromium and this program talk over TCP of lo, in the network namespace of
// the calling thread, so a page is one of that namespace, too. It sends nothing
// else: what looks for updates, hosts and printers is switched off.
package browser

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"

	"kstat/lab/sandbox"
)

// patience bounds every wait for Chromium, which takes seconds to start on a
// busy machine.
const patience = 20 * time.Second

// Missing returns nil if there is a Chromium, or what to do about it.
func Missing() error {
	if _, err := exec.LookPath("chromium"); err != nil {
		return fmt.Errorf("needs Chromium: %w; apt-get install chromium", err)
	}
	return nil
}

// Need is [kstat/lab/sandbox.Need] for Chromium.
func Need(tb testing.TB) {
	tb.Helper()
	sandbox.Lack(tb, Missing())
}

// Browser is a Chromium. It does not outlive this process.
type Browser struct {
	ctx     context.Context
	release context.CancelFunc
	dir     string
}

// Start starts one. As root it runs without its sandbox: open pages of your own
// only.
func Start() (_ *Browser, err error) {
	dir, err := os.MkdirTemp("", "kstat-chromium-")
	if err != nil {
		return nil, err
	}
	allocator, stop := chromedp.NewExecAllocator(context.Background(),
		chromedp.ExecPath("chromium"),
		chromedp.UserDataDir(dir),
		chromedp.Env("HOME="+dir, "TMPDIR="+dir, "TZ=UTC", "LANG=C.UTF-8"),
		chromedp.WSURLReadTimeout(patience),
		chromedp.Headless,
		chromedp.NoSandbox,
		chromedp.DisableGPU,
		chromedp.NoFirstRun,
		chromedp.Flag("host-resolver-rules", "MAP *.example 127.0.0.1"), // nobody is asked
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-breakpad", true),
		chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.Flag("hide-scrollbars", true),
	)
	ctx, end := chromedp.NewContext(allocator, chromedp.WithErrorf(func(string, ...any) {})) // fields newer than cdproto
	b := &Browser{ctx: ctx, dir: dir, release: func() { end(); stop() }}
	if err := chromedp.Run(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start Chromium: %w", err), b.Close())
	}
	return b, nil
}

// Close ends it, with all its tabs.
func (b *Browser) Close() error {
	err := chromedp.Cancel(b.ctx)
	b.release()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}

// Tab is a tab in a window of its own.
type Tab struct {
	ctx   context.Context
	close context.CancelFunc

	mu     sync.Mutex
	faults []string
}

// Tab opens one.
func (b *Browser) Tab() (*Tab, error) {
	var id target.ID
	err := chromedp.Run(b.ctx, chromedp.ActionFunc(func(ctx context.Context) (err error) {
		ctx = cdp.WithExecutor(ctx, chromedp.FromContext(ctx).Browser)
		id, err = target.CreateTarget("about:blank").WithNewWindow(true).Do(ctx)
		return err
	}))
	if err != nil {
		return nil, fmt.Errorf("open a window: %w", err)
	}
	ctx, end := chromedp.NewContext(b.ctx, chromedp.WithTargetID(id))
	t := &Tab{ctx: ctx, close: end}
	chromedp.ListenTarget(ctx, func(event any) {
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			t.fault(e.ExceptionDetails.Error())
		case *log.EventEntryAdded:
			// What the network refuses is the page's to handle.
			if e.Entry.Level == log.LevelError && e.Entry.Source != log.SourceNetwork {
				t.fault(e.Entry.Text)
			}
		}
	})
	if err := t.Do(log.Enable()); err != nil {
		end()
		return nil, fmt.Errorf("open a tab: %w", err)
	}
	return t, nil
}

// Close closes it.
func (t *Tab) Close() { t.close() }

// Do carries out actions, one after the other. It is an error if they take
// longer than patience.
func (t *Tab) Do(actions ...chromedp.Action) error {
	if chromedp.FromContext(t.ctx).Target == nil { // the first use must not be bounded, or the tab ends with it
		if err := chromedp.Run(t.ctx); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, actions...)
}

// Await waits until an expression of JavaScript is true in the page. It asks
// again and again from here: a page may forbid eval, and hold up its timers.
func (t *Tab) Await(expression string) error {
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		var is bool
		err := t.Do(chromedp.Evaluate(expression, &is))
		switch {
		case err == nil && is:
			return nil
		case time.Now().After(end):
			return errors.Join(fmt.Errorf("waited %v until %s", patience, expression), err)
		}
	}
}

func (t *Tab) fault(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.faults = append(t.faults, strings.Join(strings.Fields(text), " "))
}

// Faults returns what has gone wrong in the page: exceptions that nobody
// caught, and what its Content-Security-Policy refused.
func (t *Tab) Faults() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.faults
}
