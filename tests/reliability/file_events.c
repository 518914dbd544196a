/* Counts the events that change files under a directory, and lets one of them, and perhaps all later ones, go wrong.
 *
 * Loaded by LD_PRELOAD. file_events_arm(directory, number, mode, error) starts the count at 0; the event of that number
 * (from 1) and, where mode says so, all after it are not done:
 *   'k' the process is killed (SIGKILL), half of a write done;
 *   'd' as if it had been killed: this and all later events do nothing, and seem to succeed;
 *   'e' this event alone fails with the error number;
 *   'f' this and all later events that need space (open, write, mkdir, link, symlink, rename) fail with it.
 * file_events_struck() tells whether the event came, file_events_is_dead() whether nothing is done any more. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char prefix[PATH_MAX];
static long wanted, count;
static int struck, error_number, dead;
static char mode;

void file_events_arm(const char *directory, long number, char how, int error) {
    snprintf(prefix, sizeof prefix, "%s", directory);
    wanted = number, count = 0, struck = 0, dead = 0, mode = how, error_number = error;
}
void file_events_disarm(void) { prefix[0] = 0; dead = 0; }
void file_events_die(void) { if (prefix[0]) dead = 1; }
int file_events_is_dead(void) { return dead; }
int file_events_struck(void) { return struck; }

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int under(const char *path) { return prefix[0] && path && strncmp(path, prefix, strlen(prefix)) == 0; }

static int under_fd(int fd) {
    char link[64], path[PATH_MAX];
    if (!prefix[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return under(path);
}

static int under_at(int fd, const char *path) {
    if (path && path[0] == '/') return under(path);
    return fd != AT_FDCWD && under_fd(fd);
}

/* 0: do it; 1: do nothing and succeed; 2: fail. */
static int event(int needs_space) {
    if (dead) return 1;
    count++;
    if (mode == 'f' && struck && needs_space) { errno = error_number; return 2; }
    if (count != wanted) return 0;
    struck = 1;
    if (mode == 'k') raise(SIGKILL);
    if (mode == 'd') { dead = 1; return 1; }
    if (mode == 'f' && !needs_space) return 0;
    errno = error_number;
    return 2;
}

#define CHECK(inside, needs_space, nothing) \
    if (inside) { \
        int what = event(needs_space); \
        if (what == 1) return nothing; \
        if (what == 2) return -1; \
    }

#define OPEN(name, at, real) \
    mode_t permissions = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); permissions = va_arg(rest, mode_t); va_end(rest); } \
    if ((flags & (O_CREAT | O_WRONLY | O_RDWR | O_TRUNC)) && under_at(at, path)) { \
        int what = event(1); \
        if (what == 1) return REAL(open)("/dev/null", O_WRONLY); \
        if (what == 2) return -1; \
    } \
    return real;

int open(const char *path, int flags, ...) { OPEN(open, AT_FDCWD, REAL(open)(path, flags, permissions)) }
int open64(const char *path, int flags, ...) { OPEN(open64, AT_FDCWD, REAL(open64)(path, flags, permissions)) }
int openat(int fd, const char *path, int flags, ...) { OPEN(openat, fd, REAL(openat)(fd, path, flags, permissions)) }
int openat64(int fd, const char *path, int flags, ...) { OPEN(openat64, fd, REAL(openat64)(fd, path, flags, permissions)) }

ssize_t write(int fd, const void *data, size_t size) {
    if (prefix[0] && !dead && mode == 'k' && count + 1 == wanted && under_fd(fd)) REAL(write)(fd, data, size / 2);
    CHECK(under_fd(fd), 1, (ssize_t)size)
    return REAL(write)(fd, data, size);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    CHECK(under_fd(fd), 1, (ssize_t)size)
    return REAL(pwrite64)(fd, data, size, at);
}
ssize_t writev(int fd, const struct iovec *parts, int number) {
    ssize_t size = 0;
    for (int i = 0; i < number; i++) size += parts[i].iov_len;
    CHECK(under_fd(fd), 1, size)
    return REAL(writev)(fd, parts, number);
}
ssize_t sendfile64(int to, int from, off64_t *at, size_t size);
ssize_t sendfile64(int to, int from, off64_t *at, size_t size) {
    CHECK(under_fd(to), 1, 0)
    return REAL(sendfile64)(to, from, at, size);
}
int fsync(int fd) { CHECK(under_fd(fd), 0, 0) return REAL(fsync)(fd); }
int fdatasync(int fd) { CHECK(under_fd(fd), 0, 0) return REAL(fdatasync)(fd); }
int ftruncate64(int fd, off64_t size) { CHECK(under_fd(fd), 0, 0) return REAL(ftruncate64)(fd, size); }
int fchmod(int fd, mode_t permissions) { CHECK(under_fd(fd), 0, 0) return REAL(fchmod)(fd, permissions); }
int chmod(const char *path, mode_t permissions) { CHECK(under(path), 0, 0) return REAL(chmod)(path, permissions); }
int rename(const char *from, const char *to) { CHECK(under(from) || under(to), 1, 0) return REAL(rename)(from, to); }
int unlink(const char *path) { CHECK(under(path), 0, 0) return REAL(unlink)(path); }
int unlinkat(int fd, const char *path, int flags) {
    CHECK(under_at(fd, path), 0, 0)
    return REAL(unlinkat)(fd, path, flags);
}
int rmdir(const char *path) { CHECK(under(path), 0, 0) return REAL(rmdir)(path); }
int mkdir(const char *path, mode_t permissions) { CHECK(under(path), 1, 0) return REAL(mkdir)(path, permissions); }
int link(const char *from, const char *to) { CHECK(under(to), 1, 0) return REAL(link)(from, to); }
int symlink(const char *from, const char *to) { CHECK(under(to), 1, 0) return REAL(symlink)(from, to); }
