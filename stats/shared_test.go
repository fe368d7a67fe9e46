package stats

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// asWriter makes this test binary the process that is killed.
const asWriter = "KSTAT_TEST_WRITER"

func TestMain(m *testing.M) {
	if os.Getenv(asWriter) != "" {
		writeForEver(os.NewFile(3, "table"))
	}
	os.Exit(m.Run())
}

// sharedTable maps the table that a file holds.
func sharedTable(file *os.File) (*Table, []byte, error) {
	memory, err := syscall.Mmap(int(file.Fd()), 0, LedgerSize, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, nil, err
	}
	t, err := OpenTable(memory)
	return t, memory, err
}

// writeForEver adds batches, changes the counter and resets, until it is
// killed. Every packet has 100 bytes, and every batch is half TCP, half UDP.
func writeForEver(file *os.File) {
	table, _, err := sharedTable(file)
	if err != nil {
		panic(err)
	}
	random := rand.New(rand.NewPCG(uint64(os.Getpid()), 0))
	for {
		n := 1 + random.IntN(32)
		table.Add(append(packets(tcp4, n), packets(udp4, n)...))
		switch random.IntN(50) {
		case 0:
			_ = table.SetCounter(uint32(1 + random.IntN(100)))
		case 1:
			table.Reset()
		}
	}
}

// TestFaultWriterKilled: whatever a writer was doing when it was killed, the
// figures are those before or those after it.
func TestFaultWriterKilled(t *testing.T) {
	kills := 150
	if os.Getenv("KSTAT_FAULTS") == "full" {
		kills = 2000
	}
	file, err := os.CreateTemp(t.TempDir(), "table")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(int64(LedgerSize)); err != nil {
		t.Fatal(err)
	}
	table, memory, err := sharedTable(file)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Munmap(memory)
	random := rand.New(rand.NewPCG(5, 6))
	torn := 0
	for i := range kills {
		before := table.Counted()
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), asWriter+"=1")
		cmd.ExtraFiles = []*os.File{file}
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for table.Counted() == before {
			time.Sleep(100 * time.Microsecond)
		}
		time.Sleep(time.Duration(random.IntN(2000)) * time.Microsecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()

		if table.seq.Load()%2 == 1 {
			torn++
		}
		if table, err = OpenTable(memory); err != nil {
			t.Fatal(err)
		}
		s := table.Snapshot()
		var live, published, total Figures
		for _, row := range s.Rows {
			live, published, total = live.Plus(row.Live), published.Plus(row.Published), total.Plus(row.Total)
		}
		half := s.Rows[0].Total == s.Rows[1].Total
		if !half || total.Packets != table.Counted() || live.Packets-published.Packets != s.Pending ||
			total.Bytes != total.Packets*100 || live.Bytes != live.Packets*100 || s.Pending >= uint64(s.Counter) || table.Counted() < before {
			t.Fatalf("after %d kills: counted %d (before: %d), total %v, live %v, published %v, pending %d, counter %d, rows %v",
				i+1, table.Counted(), before, total, live, published, s.Pending, s.Counter, s.Rows)
		}
	}
	t.Logf("%d writers killed, %d of them inside a change, %d packets counted", kills, torn, table.Counted())
	if torn == 0 {
		t.Error("none was killed inside a change: the test tests nothing")
	}
}

func TestOpenTable(t *testing.T) {
	memory := unsafe.Slice((*byte)(unsafe.Pointer(new(ledger))), LedgerSize)
	first, err := OpenTable(memory)
	if err != nil {
		t.Fatal(err)
	}
	first.Add(packets(tcp4, 25))
	second, err := OpenTable(memory)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "nout in the next process", nout(second), 20)
	second.Add(packets(tcp4, 5))
	want(t, "nout", nout(second), 30)

	if _, err := OpenTable(memory[:LedgerSize-1]); err == nil {
		t.Error("memory that is too small: no error")
	}
	memory[0]++
	if _, err := OpenTable(memory); err == nil {
		t.Error("another version's memory: no error")
	}
}

// counterOnly is a writer that forgets everything but the counter, and how
// often it had to settle.
type counterOnly struct {
	last    uint32
	settled int
}

func (w *counterOnly) SetCounter(n uint32) error { w.last = n; return nil }
func (w *counterOnly) Reset() error              { return errors.New("not now") }
func (w *counterOnly) Settle()                   { w.settled++ }

// TestViewTable: a view leaves changes to its writer, and shows what another
// process's table shows.
func TestViewTable(t *testing.T) {
	memory := unsafe.Slice((*byte)(unsafe.Pointer(new(view))), ViewSize)
	w := new(counterOnly)
	table, err := ViewTable(memory, w)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "counter", table.Counter(), DefaultCounter)
	if err := table.SetCounter(0); err != ErrZeroCounter || w.last != 0 {
		t.Errorf("counter 0: got %v, and the writer got %d", err, w.last)
	}
	if err := table.SetCounter(7); err != nil || w.last != 7 {
		t.Errorf("counter 7: got %v, and the writer got %d", err, w.last)
	}
	if table.Reset() == nil {
		t.Error("the writer's error is lost")
	}
	table.Trace(true)
	if !table.Traced() || w.settled != 1 {
		t.Errorf("traced: %v, settled %d times, want once", table.Traced(), w.settled)
	}
	again, err := ViewTable(memory, w)
	if again.Traced() {
		t.Error("who traced was another process's, and still does")
	}
	if err != nil {
		t.Fatal(err)
	}
	want(t, "counter", again.Counter(), DefaultCounter)

	if _, err := ViewTable(memory[:ViewSize-1], w); err == nil {
		t.Error("memory that is too small: no error")
	}
	memory[0]++
	if _, err := ViewTable(memory, w); err == nil {
		t.Error("another version's memory: no error")
	}
}
