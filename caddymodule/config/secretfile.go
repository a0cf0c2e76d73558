package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
)

// ErrNoSecretFile is returned by ReadSecretFile if the file doesn't exist.
var ErrNoSecretFile = errors.New("there is no secret file")

// ReadSecretFile returns the secret in the file, ErrNoSecretFile if it doesn't exist, or an error
// that says what is wrong and what to do.
func ReadSecretFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoSecretFile
	}
	if err != nil {
		return nil, fmt.Errorf("secret: %w", WithAdvice(err))
	}
	if info.Mode().Perm()&0o007 != 0 && runtime.GOOS != "windows" {
		return nil, fmt.Errorf("secret: every user of this machine can read %s; run: chmod 600 %s", path, path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("secret: %w", WithAdvice(err))
	}
	value := []byte(strings.TrimSpace(string(data)))
	if _, err := secret.New(value); err != nil {
		return nil, fmt.Errorf("secret: %s: %w", path, err)
	}
	return value, nil
}
