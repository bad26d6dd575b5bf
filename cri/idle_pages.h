#ifndef DAVIT_CRI_IDLE_PAGES_H_
#define DAVIT_CRI_IDLE_PAGES_H_

namespace davit::cri {

// What an idle daemon does not work with, given back: free heap pages (man 3 malloc_trim), and the
// read-only pages of the program and its libraries in this process's page tables (man 2 madvise,
// MADV_DONTNEED). Most of the latter were touched once, by constructors and registrations of a
// dozen libraries, in neighbourhoods of 64 KiB a fault; they stay in the page cache as long as the
// kernel has room, and what is used again comes back by a minor fault. Segments that can be written
// are left alone. Safe while other threads run; takes about a millisecond.
void ReleaseIdlePages();

}  // namespace davit::cri

#endif  // DAVIT_CRI_IDLE_PAGES_H_
