package cli

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestDocsNameEveryCommand: docs/commands.md has each command as it is typed.
func TestDocsNameEveryCommand(t *testing.T) {
	page, err := os.ReadFile("../../docs/commands.md")
	if err != nil {
		t.Fatal(err)
	}
	root := &cobra.Command{Use: "doorpost <command>"}
	Commands(root)
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		for _, c := range cmd.Commands() {
			if c.Name() == "help" || c.Name() == "completion" {
				continue
			}
			visit(c)
			if path := c.CommandPath(); !c.HasAvailableSubCommands() && !strings.Contains(string(page), path) {
				t.Errorf("docs/commands.md doesn't name caddy %s", path)
			}
		}
	}
	visit(root)
}
