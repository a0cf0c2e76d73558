package web

import "fmt"

// SizeInWords is a number of bytes for people.
func SizeInWords(n int64) string {
	switch {
	case n == 1:
		return "1\u00a0byte"
	case n < 1000:
		return fmt.Sprintf("%d\u00a0bytes", n)
	case n < 999_500:
		return fmt.Sprintf("%d\u00a0kB", (n+500)/1000)
	case n < 999_950_000:
		return fmt.Sprintf("%.1f\u00a0MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f\u00a0GB", float64(n)/1e9)
}
