// Package e2e drives the built binaries as a kubelet would: over the unix socket, as root, each test
// with a davitd of its own on temporary directories.
//
// Run it through e2e/run, which builds what the tests need and says where it is:
//
//	DAVIT_DIST    directory of davitd, davit-pod, davit-init, davit-unpack
//	DAVIT_CRICTL  crictl
package e2e
