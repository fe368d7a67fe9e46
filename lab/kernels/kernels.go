package main

// A kernel is one that kstatd is tried on, and where it comes from.
type kernel struct {
	name, arch  string
	base, suite string
	release     string // a regular expression: uname -r
	bpf         bool   // has BPF programs at netfilter hooks
	target      string // the module that queues where nft_queue is missing; "" if it may not in a table of family inet
}

// kernels are those of Debian's suites, and Ubuntu's of 22.04's for the oldest with BPF netfilter links that a mirror still has.
var kernels = []kernel{
	{"6.1-amd64", "amd64", security, "bookworm-security", `6\.1\.0-\d+-cloud-amd64`, false, "xt_NFQUEUE"},
	{"6.5-amd64", "amd64", ubuntu, "jammy-updates", `6\.5\.0-\d+-generic`, true, ""},
	{"6.12-amd64", "amd64", security, "trixie-security", `6\.12\.\d+\+deb13-cloud-amd64`, true, "xt_NFQUEUE"},
	{"7.2-amd64", "amd64", debian, "trixie-backports", `7\.2\.\d+\+deb13-cloud-amd64`, true, "xt_NFQUEUE"},
	{"6.1-arm64", "arm64", security, "bookworm-security", `6\.1\.0-\d+-cloud-arm64`, false, "xt_NFQUEUE"},
	{"6.12-arm64", "arm64", security, "trixie-security", `6\.12\.\d+\+deb13-cloud-arm64`, true, "xt_NFQUEUE"},
	{"6.12-arm64-16k", "arm64", security, "trixie-security", `6\.12\.\d+\+deb13-arm64-16k`, true, "xt_NFQUEUE"},
	{"7.2-arm64", "arm64", debian, "trixie-backports", `7\.2\.\d+\+deb13-cloud-arm64`, true, "xt_NFQUEUE"},
}
