// Package studio is what the programs that take pictures share: their main
// function, traffic that goes on and on, and small files.
package studio

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"maps"
	"math"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"kstat/lab/sandbox"
)

// Main has pictures taken in a sandbox, and ends the process: it is what a main
// function does once it has parsed its flags. The context ends when the process
// is to end before that.
func Main(take func(context.Context) error) {
	inside, status, err := sandbox.Reexec()
	if err == nil && inside {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		err = take(ctx)
		stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "screenshots:", err)
		status = 1
	}
	os.Exit(status)
}

// Kind is packets of one kind, more and less of them as time goes by.
type Kind struct {
	Mean, Wave float64       // packets a second
	Period     time.Duration // of the wave
	Send       func(n int) error
}

// Send sends packets of all kinds until ctx ends. It stays on the thread of its
// caller, and so in its network.
func Send(ctx context.Context, kinds []Kind) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	owed := make([]float64, len(kinds))
	began := time.Now()
	last := began
	for ctx.Err() == nil {
		now := <-tick.C
		at, passed := now.Sub(began).Seconds(), now.Sub(last).Seconds()
		last = now
		for i, k := range kinds {
			phase := at/k.Period.Seconds()*2*math.Pi + float64(i)
			owed[i] += passed * (k.Mean + k.Wave*math.Sin(phase) + k.Wave/3*math.Sin(5.3*phase))
			n := math.Floor(max(owed[i], 0))
			owed[i] -= n
			if err := k.Send(int(n)); err != nil {
				return err
			}
		}
	}
	return nil
}

// WritePNG writes a PNG anew, as a smaller file.
func WritePNG(path string, shot []byte) error {
	art, err := png.Decode(bytes.NewReader(shot))
	if err != nil {
		return err
	}
	var small bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&small, paletted(art)); err != nil {
		return err
	}
	fmt.Printf("%s: %d kB\n", path, (small.Len()+500)/1000)
	return os.WriteFile(path, small.Bytes(), 0o644)
}

// paletted returns the picture in its 256 most frequent colours, which makes it
// a third as large; what is left are shades at the edges of letters.
func paletted(art image.Image) *image.Paletted {
	bounds := art.Bounds()
	often := make(map[color.Color]int)
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			often[art.At(x, y)]++
		}
	}
	colors := slices.SortedFunc(maps.Keys(often), func(a, b color.Color) int { return often[b] - often[a] })
	palette := color.Palette(colors[:min(256, len(colors))])
	index := make(map[color.Color]uint8)
	for _, c := range colors {
		index[c] = uint8(palette.Index(c))
	}
	flat := image.NewPaletted(bounds, palette)
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			flat.SetColorIndex(x, y, index[art.At(x, y)])
		}
	}
	return flat
}
