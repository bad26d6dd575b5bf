package leaks

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"davit.dev/e2e/internal/slowdown"
)

const (
	// The client's connection, and one that is being set up, come and go.
	spareDescriptors = 2
	// What the heap of a daemon that has worked keeps for its next work.
	spareMemory = 24 << 20
)

// A Census is what there is at one time.
type Census struct {
	objects []string
	rows    map[string]int // of the image store's database, by table
	files   []string       // davitd's open files
	memory  int64          // davitd's proportional set size in bytes
}

// Take counts everything. Without a running davitd its files and memory are not counted.
func (n Node) Take() Census {
	c := Census{objects: append(n.OfPods(), n.OfImages()...)}
	var err error
	if c.rows, err = n.Rows(); err != nil {
		c.objects = append(c.objects, err.Error())
	}
	if n.Daemon != 0 {
		c.files = Descriptors(n.Daemon)
		c.memory, _ = PSS(n.Daemon)
	}
	return c
}

// More tells what there is more of than there was before: what has leaked.
func (before Census) More(after Census) []string {
	var more []string
	for _, object := range after.objects {
		if !slices.Contains(before.objects, object) {
			more = append(more, object)
		}
	}
	for table, count := range after.rows {
		if count > before.rows[table] {
			more = append(more, fmt.Sprintf("%d rows of the table %s (there were %d)", count, table, before.rows[table]))
		}
	}
	if files := moreFiles(before.files, after.files); files != "" {
		more = append(more, files)
	}
	if before.memory > 0 && after.memory > before.memory+spareMemory*slowdown.Factor() {
		more = append(more, fmt.Sprintf("%d kB of davitd's memory (there were %d)", after.memory>>10, before.memory>>10))
	}
	slices.Sort(more)
	return more
}

// AwaitNoMore returns what there still is more of after the grace that work in the background has.
func (before Census) AwaitNoMore(node func() Node, grace time.Duration) []string {
	for deadline := time.Now().Add(grace); ; time.Sleep(20 * time.Millisecond) {
		more := before.More(node().Take())
		if len(more) == 0 || time.Now().After(deadline) {
			return more
		}
	}
}

// AwaitNoMoreFiles looks at davitd's open files alone: "" if there are no more than there were.
func (before Census) AwaitNoMoreFiles(node func() Node, grace time.Duration) string {
	for deadline := time.Now().Add(grace); ; time.Sleep(20 * time.Millisecond) {
		more := moreFiles(before.files, Descriptors(node().Daemon))
		if more == "" || time.Now().After(deadline) {
			return more
		}
	}
}

func moreFiles(before, after []string) string {
	if len(before) == 0 || len(after) <= len(before)+spareDescriptors {
		return ""
	}
	return fmt.Sprintf("%d open files of davitd (there were %d): %s", len(after), len(before), MoreDescriptors(before, after))
}

// Rows of each table of the image store's database; none if there is no database.
func (n Node) Rows() (map[string]int, error) {
	rows := map[string]int{}
	database := n.Root + "/images/images.db"
	if _, err := os.Stat(database); err != nil {
		return rows, nil
	}
	const query = "SELECT 'images', count(*) FROM images UNION SELECT 'names', count(*) FROM names UNION " +
		"SELECT 'manifests', count(*) FROM manifests UNION SELECT 'layers', count(*) FROM layers UNION " +
		"SELECT 'image_layers', count(*) FROM image_layers"
	out, err := exec.Command("sqlite3", "-readonly", "-separator", " ", "-cmd", ".timeout 5000", database, query).Output()
	if err != nil {
		return rows, fmt.Errorf("%s cannot be read: %v", database, err)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		var table string
		var count int
		if _, err := fmt.Sscan(line, &table, &count); err == nil {
			rows[table] = count
		}
	}
	return rows, nil
}

// PSS is the proportional set size of a process in bytes (proc(5), smaps_rollup).
func PSS(pid int) (int64, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	defer file.Close()
	for scanner := bufio.NewScanner(file); scanner.Scan(); {
		var kilobytes int64
		if n, _ := fmt.Sscanf(scanner.Text(), "Pss: %d kB", &kilobytes); n == 1 {
			return kilobytes << 10, nil
		}
	}
	return 0, fmt.Errorf("no Pss in smaps_rollup of process %d", pid)
}
