package caddymodule_test

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// lengthLine matches a response's Content-Length, which varies with the seconds on a page.
var lengthLine = regexp.MustCompile(`(?m)^Content-Length: .*$`)

// Tools for the measurements in speed_test.go and uniform_test.go: a client that uses almost no
// processor time, so that the server gets it, and statistics.

// wire is one connection to a server. It sends bytes unchanged.
type wire struct {
	conn       net.Conn
	in         *bufio.Reader
	head, body []byte // of the last response, valid until the next
}

func dialWire(t *testing.T, address string) *wire {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &wire{conn: conn, in: bufio.NewReaderSize(conn, 64<<10)}
}

var errUnframed = errors.New("the answer has no Content-Length")

// ask sends a request and reads the response.
func (w *wire) ask(request []byte) (status int, err error) {
	if _, err := w.conn.Write(request); err != nil {
		return 0, err
	}
	line, err := w.in.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if len(line) < len("HTTP/1.1 200") {
		return 0, fmt.Errorf("no status line: %q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, err
	}
	length := -1
	w.head = append(w.head[:0], line...)
	for {
		line, err = w.in.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		w.head = append(w.head, line...)
		if len(line) <= 2 {
			break
		}
		if name, value, _ := bytes.Cut(line, []byte(":")); len(name) == len("Content-Length") && bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, err
			}
		}
	}
	if length < 0 && status != 204 {
		return 0, errUnframed
	}
	w.body = slices.Grow(w.body[:0], max(length, 0))[:max(length, 0)]
	_, err = io.ReadFull(w.in, w.body)
	return status, err
}

// pageBytes returns a browser's request for a page as bytes, with optional further header lines.
func pageBytes(host, path string, lines ...string) []byte {
	return []byte("GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\n" + strings.Join(append(browserLines(), lines...), "\r\n") + "\r\n\r\n")
}

// formBytes returns a browser's request with one of the gate's forms as bytes.
func formBytes(host, path, body string, lines ...string) []byte {
	lines = append(append(browserLines(), "Origin: http://"+host, "Content-Type: application/x-www-form-urlencoded",
		"Content-Length: "+strconv.Itoa(len(body))), lines...)
	return []byte("POST " + path + " HTTP/1.1\r\nHost: " + host + "\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n" + body)
}

// browserLines are the header lines of all browser requests.
func browserLines() []string {
	return []string{
		"User-Agent: Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
		"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
		"Accept-Language: en-US,en;q=0.9", "Accept-Encoding: gzip, deflate, br", "Sec-Fetch-Dest: document",
		"Sec-Fetch-Mode: navigate", "Sec-Fetch-Site: same-origin", "Sec-Fetch-User: ?1", "Upgrade-Insecure-Requests: 1",
	}
}

// cpuTime returns the processor time that a process has used, or 0 without /proc.
func cpuTime(pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // after the name, which may contain anything
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond // proc(5): in hundredths of a second
}

// idle waits, at most a minute, until a process has nothing to do.
func idle(pid int) {
	const look = 200 * time.Millisecond
	for range time.Minute / look {
		before := cpuTime(pid)
		time.Sleep(look)
		if cpuTime(pid)-before <= look/20 {
			return
		}
	}
}

// memoryOf returns the memory that a process uses, in MB, or 0 without /proc.
func memoryOf(pid int) float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	if fields := strings.Fields(rest); len(fields) > 0 {
		kB, _ := strconv.Atoi(fields[0])
		return float64(kB) / 1024
	}
	return 0
}

// quantile returns the q-th quantile of the values, 0 ≤ q ≤ 1, or zero if there are none. It sorts
// them.
func quantile[T cmp.Ordered](values []T, q float64) (v T) {
	if len(values) == 0 {
		return v
	}
	slices.Sort(values)
	return values[min(len(values)-1, int(q*float64(len(values))))]
}

func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}

// ratio returns the geometric mean of ratios, with its 95 % confidence interval by bootstrap.
type ratio struct{ mid, low, high float64 }

func ratioOf(logs []float64) ratio {
	low, high := interval(logs)
	return ratio{math.Exp(mean(logs)), math.Exp(low), math.Exp(high)}
}

func (r ratio) String() string { return fmt.Sprintf("%.3f [%.3f, %.3f]", r.mid, r.low, r.high) }

// interval returns the 95 % confidence interval of a mean by bootstrap.
func interval(values []float64) (low, high float64) {
	rng := rand.New(rand.NewPCG(1, 2))
	means := make([]float64, 4000)
	again := make([]float64, len(values))
	for i := range means {
		for j := range again {
			again[j] = values[rng.IntN(len(values))]
		}
		means[i] = mean(again)
	}
	return quantile(means, 0.025), quantile(means, 0.975)
}

// auc returns how well one value separates two classes (Mann and Whitney): 0.5 is not at all, 1 is
// always, whichever of them is larger.
func auc[T cmp.Ordered](a, b []T) float64 {
	type one struct {
		value T
		first bool
	}
	all := make([]one, 0, len(a)+len(b))
	for _, v := range a {
		all = append(all, one{v, true})
	}
	for _, v := range b {
		all = append(all, one{v, false})
	}
	slices.SortFunc(all, func(x, y one) int { return cmp.Compare(x.value, y.value) })
	ranks := 0.0 // of a's; equal values share theirs
	for i := 0; i < len(all); {
		j := i
		for j < len(all) && all[j].value == all[i].value {
			j++
		}
		for _, x := range all[i:j] {
			if x.first {
				ranks += float64(i+1+j) / 2
			}
		}
		i = j
	}
	n, m := float64(len(a)), float64(len(b))
	u := (ranks - n*(n+1)/2) / (n * m)
	return max(u, 1-u)
}

func TestAUC(t *testing.T) {
	for _, one := range []struct {
		a, b []int
		want float64
	}{
		{[]int{1, 2, 3}, []int{4, 5}, 1},
		{[]int{4, 5}, []int{1, 2, 3}, 1},
		{[]int{1, 2, 3}, []int{1, 2, 3}, 0.5},
		{[]int{1, 1, 1, 1}, []int{1, 1}, 0.5},
		{[]int{1, 3}, []int{2, 4}, 0.75},
	} {
		if got := auc(one.a, one.b); got != one.want {
			t.Errorf("auc(%v, %v) = %v; want %v", one.a, one.b, got, one.want)
		}
	}
}
