//go:build unix

package redistest

import "syscall"

// Hang stops the process, which then accepts connections and says nothing, until Resume.
func (s *Server) Hang()   { s.Signal(syscall.SIGSTOP) }
func (s *Server) Resume() { s.Signal(syscall.SIGCONT) }
