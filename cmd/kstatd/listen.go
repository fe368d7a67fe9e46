package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"

	"kstat/hook"
	"kstat/metrics"
)

// address is where HTTP requests are to arrive: a network as package net calls
// it, and an address in it.
type address struct{ network, name string }

const unixPrefix = "unix:"

// String returns the address as the command line spells it.
func (a address) String() string {
	if a.network == "unix" {
		return unixPrefix + a.name
	}
	return a.name
}

// maxPath is how long the path of a Unix socket may be (struct sockaddr_un).
const maxPath = 107

// parseAddress reads an address. Names of hosts are none: at boot there may be
// nobody to ask.
func parseAddress(text string) (address, error) {
	if path, ok := strings.CutPrefix(text, unixPrefix); ok {
		switch {
		case !filepath.IsAbs(path):
			return address{}, errors.New("take an absolute path, as unix:/run/kstatd.sock")
		case len(path) > maxPath:
			return address{}, fmt.Errorf("take a path of at most %d bytes, this one has %d", maxPath, len(path))
		}
		return address{"unix", path}, nil
	}
	host, port, err := net.SplitHostPort(text)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err == nil && host != "" {
		_, err = netip.ParseAddr(host)
	}
	if err != nil {
		return address{}, errors.New("take an address and a port, as 127.0.0.1:9469 or [::1]:9469, :9469 for all addresses, or unix:/PATH")
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is4() {
		return address{"tcp4", text}, nil // else 0.0.0.0 would be all of IPv6 as well
	}
	return address{"tcp", text}, nil
}

// sockets are where HTTP requests arrive. The supervisor has them, so that
// those who connect while a worker is replaced wait for the next one.
type sockets struct {
	files []*os.File
	made  []madeSocket
}

// madeSocket is a Unix socket's file.
type madeSocket struct {
	path string
	file unix.Stat_t
}

// listen opens the sockets, and takes those that the service manager has
// opened.
func listen(addresses []address) (_ *sockets, err error) {
	s := new(sockets)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	for _, f := range activation.Files(true) {
		s.files = append(s.files, f)
		if accepts, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || accepts == 0 {
			return s, fmt.Errorf("%s, from the service manager, is no socket that listens: it takes ListenStream= and Accept=no", f.Name())
		}
	}
	for _, a := range addresses {
		if err := s.open(a); err != nil {
			return s, fmt.Errorf("listen on %v: %w", a, err)
		}
	}
	return s, nil
}

// open opens one socket.
func (s *sockets) open(a address) error {
	if a.network == "unix" {
		if err := clearStale(a.name); err != nil {
			return err
		}
		// Everybody may connect whom the directory lets pass, as everybody may
		// read the tree. A chmod could meet something else by then.
		defer unix.Umask(unix.Umask(0o111))
	}
	var c net.ListenConfig
	c.SetMultipathTCP(false) // nobody has asked for it
	l, err := c.Listen(context.Background(), a.network, a.name)
	switch {
	case errors.Is(err, unix.EADDRINUSE) && a.network != "unix": // whose path somebody has made just now
		return s.taken(a)
	case errors.Is(err, unix.EINVAL) && linkLocal(a):
		return fmt.Errorf("a link-local address is that of a device: name it, as [fe80::1%%eth0]:9469: %w", bare(err))
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("this host does not have that address: choose one that ip address shows: %w", bare(err))
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("there is no directory %s: make it, or choose another path: %w", filepath.Dir(a.name), bare(err))
	case err != nil:
		return bare(err)
	}
	defer l.Close()
	if l, ok := l.(*net.UnixListener); ok {
		l.SetUnlinkOnClose(false)
		made := madeSocket{path: a.name}
		if err := unix.Lstat(a.name, &made.file); err != nil {
			return err
		}
		s.made = append(s.made, made)
	}
	f, err := l.(interface{ File() (*os.File, error) }).File()
	if err == nil {
		s.files = append(s.files, f)
	}
	return err
}

// bare returns an error of package net without the address that it repeats.
func bare(err error) error {
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		return op.Err
	}
	return err
}

// clearStale removes the file of a Unix socket that nobody listens on. Anything
// else stays, and is an error.
func clearStale(path string) error {
	switch info, err := os.Lstat(path); {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("there is something else than a socket (%v), which stays as it is: choose another path, or remove it", info.Mode())
	}
	c, err := net.Dial("unix", path)
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return os.Remove(path)
	case errors.Is(err, os.ErrNotExist): // by now
		return nil
	case errors.Is(err, unix.EAGAIN): // its backlog is full
		return fmt.Errorf("somebody listens there, who does not accept connections: end them, or choose another path: %w", unix.EADDRINUSE)
	case err != nil:
		return bare(err)
	}
	defer c.Close()
	return fmt.Errorf("%s listens there: end it, or choose another path: %w", peer(c.(*net.UnixConn)), unix.EADDRINUSE)
}

// peer says who is at the other end.
func peer(c *net.UnixConn) (who string) {
	who = hook.Unseen
	raw, err := c.SyscallConn()
	if err != nil {
		return who
	}
	_ = raw.Control(func(fd uintptr) {
		if ucred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil && ucred.Pid > 0 {
			name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", ucred.Pid))
			who = fmt.Sprintf("pid %d (%s)", ucred.Pid, bytes.TrimSpace(name))
		}
	})
	return who
}

// linkLocal reports whether an address wants a device, and names none.
func linkLocal(a address) bool {
	at, err := netip.ParseAddrPort(a.name)
	return err == nil && at.Addr().IsLinkLocalUnicast() && at.Addr().Zone() == ""
}

// taken says who keeps an address of TCP from being listened on.
func (s *sockets) taken(a address) error {
	host, port, _ := net.SplitHostPort(a.name)
	ip, err := netip.ParseAddr(host)
	if err != nil { // there is none
		ip = netip.IPv6Unspecified()
	}
	n, _ := strconv.ParseUint(port, 10, 16)
	if s.have(ip, int(n)) {
		return fmt.Errorf("another --listen, or a socket of the service manager, has it already: leave one of them out: %w", unix.EADDRINUSE)
	}
	who, listens := hook.TCPHolder(netip.AddrPortFrom(ip, uint16(n)))
	if !listens {
		return fmt.Errorf("nobody listens there, but a connection from that port or a socket that is only bound to it is in the way: "+
			"choose another address: %w", unix.EADDRINUSE)
	}
	return fmt.Errorf("%s listens there: end it, or choose another address: %w", who, unix.EADDRINUSE)
}

// have reports whether one of the sockets is in the way of an address.
func (s *sockets) have(ip netip.Addr, port int) bool {
	return slices.ContainsFunc(s.files, func(f *os.File) bool {
		var have netip.Addr
		var at int
		switch name, _ := unix.Getsockname(int(f.Fd())); name := name.(type) {
		case *unix.SockaddrInet4:
			have, at = netip.AddrFrom4(name.Addr), name.Port
		case *unix.SockaddrInet6:
			have, at = netip.AddrFrom16(name.Addr).Unmap(), name.Port
		default:
			return false
		}
		return at == port && (have == ip.Unmap().WithZone("") || have.IsUnspecified() || ip.IsUnspecified())
	})
}

// close closes the sockets, and removes the files that were made for them, if
// they are still those.
func (s *sockets) close() error {
	var errs []error
	for _, m := range s.made {
		var now unix.Stat_t
		if unix.Lstat(m.path, &now) == nil && now.Dev == m.file.Dev && now.Ino == m.file.Ino {
			errs = append(errs, os.Remove(m.path))
		}
	}
	for _, f := range s.files {
		if err := f.Close(); !errors.Is(err, os.ErrClosed) { // by one process that is both
			errs = append(errs, err)
		}
	}
	*s = sockets{}
	return errors.Join(errs...)
}

// listenersOf returns what accepts connections of files that are sockets, and
// closes the files.
func listenersOf(files []*os.File) (listeners []net.Listener, err error) {
	for _, f := range files {
		l, e := net.FileListener(f)
		if l, ok := l.(*net.UnixListener); ok {
			l.SetUnlinkOnClose(false) // the file is the supervisor's, or the service manager's
		}
		if e == nil {
			listeners = append(listeners, l)
		}
		err = errors.Join(err, e, f.Close())
	}
	return listeners, err
}

// How long a token may be. A short one can be guessed.
const minToken, maxToken = 16, 4096

// readToken reads the token of a file, which must be closed to others.
func readToken(path string) (*metrics.Token, error) {
	refuse := func(format string, args ...any) (*metrics.Token, error) {
		return nil, fmt.Errorf("token file %s: %w", path, fmt.Errorf(format, args...))
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // it may be a FIFO
	if err != nil {
		return nil, fmt.Errorf("token file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return refuse("%w", err)
	case !info.Mode().IsRegular():
		return refuse("it is no regular file (%v)", info.Mode())
	case info.Mode().Perm()&0o027 != 0:
		return refuse("others than its owner may read or change it (%v): chmod 600 it, and put a new token into it", info.Mode())
	}
	text, err := io.ReadAll(io.LimitReader(f, maxToken+2))
	if err != nil {
		return refuse("%w", err)
	}
	text = bytes.TrimSpace(text)
	switch {
	case len(text) < minToken || len(text) > maxToken:
		return refuse("it takes a token of %d to %d characters, this one has %d: openssl rand -hex 32 makes one", minToken, maxToken, len(text))
	case bytes.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }):
		return refuse("it takes one token of visible ASCII characters, without blanks: openssl rand -hex 32 makes one")
	}
	return metrics.NewToken(text), nil
}

// web is what the supervisor has for the HTTP server.
type web struct {
	*sockets
	token *metrics.Token // nil if there is none
}

// openWeb opens the sockets and reads the token.
func openWeb(o *options, log *slog.Logger) (w web, err error) {
	if o.tokenFile != "" {
		if w.token, err = readToken(o.tokenFile); err != nil {
			return w, err
		}
	}
	w.sockets, err = listen(o.listen)
	if err == nil && len(w.files) == 0 && o.tokenFile != "" {
		log.Warn("the token is of no use: there is no --listen, and no socket from the service manager")
	}
	return w, err
}
