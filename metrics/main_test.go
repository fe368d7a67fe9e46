package metrics

import (
	"testing"

	"kstat/lab/sandbox"
)

func TestMain(m *testing.M) { sandbox.Main(m) }
