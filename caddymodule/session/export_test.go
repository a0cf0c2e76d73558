package session

// Held returns how many sessions are in memory.
func Held(s *Sessions) int64 { return s.memory().count.Load() }
