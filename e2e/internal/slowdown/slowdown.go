// Package slowdown scales what tests expect of instrumented programs, which need several times the
// time and memory: tools/sanitize sets DAVIT_E2E_SLOWDOWN.
package slowdown

import (
	"os"
	"strconv"
	"time"
)

// Factor is 1 unless DAVIT_E2E_SLOWDOWN says more.
func Factor() int64 {
	factor, err := strconv.ParseInt(os.Getenv("DAVIT_E2E_SLOWDOWN"), 10, 64)
	if err != nil || factor < 1 {
		return 1
	}
	return factor
}

// Of is the duration that an instrumented program may take for what others do in `plain`.
func Of(plain time.Duration) time.Duration { return plain * time.Duration(Factor()) }
