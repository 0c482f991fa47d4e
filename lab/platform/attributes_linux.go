package platform

import "syscall"

// attributes make a child die with its parent, in a process group of its own so that a terminal's Ctrl-C reaches the
// parent alone, which then ends its children in order.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
