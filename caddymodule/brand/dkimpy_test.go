//go:build servers

package brand

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"testing"
)

// dkimpy is another implementation, from Debian's python3-dkim.
func TestSignaturesVerifyWithAnotherImplementation(t *testing.T) {
	const python = "/usr/bin/python3"
	if err := exec.Command(python, "-c", "import dkim, nacl").Run(); err != nil {
		t.Fatalf("%v; ./test.sh installs python3-dkim and python3-nacl", err)
	}
	mail, records := signedMail(t)
	known, err := json.Marshal(records)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, "-c", `
import dkim, json, sys
records = json.loads(sys.argv[1])
def dns(name, timeout=5): return records[name.decode().rstrip(".")].encode()
mail = sys.stdin.buffer.read()
d = dkim.DKIM(mail)
print(d.verify(idx=0, dnsfunc=dns), d.verify(idx=1, dnsfunc=dns))
print(dkim.verify(mail.replace(b"/link", b"/sink"), dnsfunc=dns))
`, string(known))
	cmd.Stdin = bytes.NewReader(mail)
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "True True\nFalse\n" {
		t.Errorf("dkimpy = %v %s; want both signatures to verify, and a changed mail not to:\n%s", err, out, mail)
	}
}
