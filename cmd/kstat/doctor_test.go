package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"kstat/lab/doctor"
	"kstat/lab/sandbox"
)

func TestDoctor(t *testing.T) {
	needWorld(t)
	got := end(t, tool("doctor", "nfqueue", "--json", "--limit", "20s", "fuse", "--queue", "7"))
	var r doctor.Report
	must(t, json.Unmarshal([]byte(got.stdout), &r))
	var features []doctor.Feature
	for _, f := range r.Features {
		features = append(features, f.ID)
		if f.Status != doctor.OK {
			t.Errorf("%+v", f)
		}
	}
	if got.status != 0 || !r.OK || !slices.Equal(features, []doctor.Feature{doctor.NFQueue, doctor.FUSE}) {
		t.Errorf("status %d, ok %v, features %q", got.status, r.OK, features)
	}

	// A feature that is asked for by name has to be seen to work.
	sandbox.Need(t, sandbox.Root)
	got = end(t, sandbox.AsUser(tool("doctor", "bpf"), sandbox.Nobody))
	if got.status != exitFailure || !strings.Contains(got.stdout, "kstatd --engine bpf") || got.stderr != "" {
		t.Errorf("%+v", got)
	}
}

func TestDoctorUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"gout"}, `no feature "gout": take one of nfqueue, bpf, fuse, run, run-root, metrics, service`},
		{[]string{"nfqueue", "--queue", "65536"}, "take a number from 0 to 65535"},
		{[]string{"--queue", "65535", "--queues", "2"}, "--queues 2 from --queue 65535 on ends behind 65535"},
		{[]string{"--queues", "129"}, "take a number from 1 to 128"},
		{[]string{"--queue-len", "0"}, "take a number from 1 to 1048576"},
		{[]string{"--limit", "0s"}, "--limit has to be positive"},
		{[]string{"--limit", "10"}, "take a duration, like 500ms, 10s or 2m"},
		{[]string{"--wrong"}, "flag provided but not defined"},
	} {
		got := end(t, tool(append([]string{"doctor"}, c.args...)...))
		if got.status != exitUsage || got.stdout != "" || strings.Count(got.stderr, "\n") != 1 || !strings.Contains(got.stderr, c.says) {
			t.Errorf("kstat doctor %q: %+v, want %q", c.args, got, c.says)
		}
	}
	if got := end(t, tool("doctor", "--schema")); got != (outcome{stdout: string(doctor.JSONSchema())}) {
		t.Errorf("--schema: %+v", got)
	}
	if got := end(t, tool("doctor", "nfqueue", "--help")); got.status != 0 || !strings.HasPrefix(got.stdout, "usage: kstat doctor") {
		t.Errorf("--help: %+v", got)
	}
}
