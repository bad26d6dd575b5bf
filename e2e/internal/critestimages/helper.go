package critestimages

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// helperProgram compiles the program that the images hold, statically. It has to be called inside the
// e2e module.
func helperProgram() ([]byte, error) {
	dir, err := os.MkdirTemp("", "davit-program-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "program")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "davit.dev/e2e/internal/critestimages/program")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the program of the test images: %w\n%s", err, out)
	}
	return os.ReadFile(path)
}
