package outbox

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/loopback"
)

// wire is the connection below SMTP and TLS. Any goroutine may close it at any time, and it limits
// how much a server may send.
type wire struct {
	net.Conn // set by dial
	left     int
	patience time.Duration
	heard    []byte // by listen, and not yet read

	mu     sync.Mutex
	closed bool
}

func (w *wire) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		conn.Close()
		return nil, net.ErrClosed
	}
	w.Conn = conn
	return w, nil
}

// isLocal reports whether the server is on this machine.
func (w *wire) isLocal() bool {
	host, _, err := net.SplitHostPort(w.RemoteAddr().String())
	return err == nil && loopback.Is(host)
}

func (w *wire) dialTLS(ctx context.Context, network, addr string, config *tls.Config) (net.Conn, error) {
	if _, err := w.dial(ctx, network, addr); err != nil {
		return nil, err
	}
	conn := tls.Client(w, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return conn, nil
}

// errWaitsForTLS: the server expects the client to begin, with TLS.
var errWaitsForTLS = errors.New("the server is encrypted from the first byte; write `tls implicit`")

// listen waits for the server's greeting. Where none comes in some seconds, it looks by
// another connection whether the server waits for TLS; a server that is only slow to greet
// goes on being waited for.
func (w *wire) listen(ctx context.Context, network, addr string) error {
	patience := w.patience
	if patience <= 0 {
		patience = greetTime
	}
	w.Conn.SetReadDeadline(time.Now().Add(patience))
	first := make([]byte, 1)
	n, err := w.Conn.Read(first)
	w.Conn.SetReadDeadline(time.Time{}) // go-mail sets its own
	w.heard = first[:n]
	if late, ok := errors.AsType[net.Error](err); ok && late.Timeout() && beginsWithTLS(ctx, network, addr, patience) {
		return errWaitsForTLS
	}
	return nil // a read that failed fails again
}

// beginsWithTLS reports whether the server answers the first message of a TLS handshake by
// TLS. Nothing else is sent.
func beginsWithTLS(ctx context.Context, network, addr string, patience time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return false
	}
	defer conn.Close()
	host, _, _ := net.SplitHostPort(addr)
	heard := &firstByte{Conn: conn}
	tls.Client(heard, &tls.Config{ServerName: host}).HandshakeContext(ctx) // only how it begins counts
	const alert, handshake = 21, 22
	return heard.b == alert || heard.b == handshake
}

// firstByte is a connection that remembers the first byte that came.
type firstByte struct {
	net.Conn
	b byte
}

func (f *firstByte) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	if n > 0 && f.b == 0 {
		f.b = p[0]
	}
	return n, err
}

func (w *wire) Read(p []byte) (int, error) {
	if n := copy(p, w.heard); n > 0 {
		w.heard = w.heard[n:]
		return n, nil
	}
	if w.left <= 0 {
		return 0, errors.New("the server talks too much")
	}
	n, err := w.Conn.Read(p[:min(len(p), w.left)])
	w.left -= n
	return n, err
}

// Close may be called before, while and after dialling, and more than once.
func (w *wire) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.Conn == nil {
		return nil
	}
	return w.Conn.Close()
}
