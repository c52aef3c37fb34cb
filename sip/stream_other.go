//go:build !linux

package sip

import "syscall"

// setUserTimeout does nothing: the limit is Linux's.
func setUserTimeout(_, _ string, _ syscall.RawConn) error { return nil }
