/* A disk that fails when it is told to, for whoever is started with this in LD_PRELOAD.
 *
 * DISK_FAULT_DIR    only calls on files below this directory count
 * DISK_FAULT_CALLS  which: "write", "sync" or "size" (ftruncate, fallocate), or several, "write,sync"
 * DISK_FAULT_AT     the number of the first call that fails, from 1
 * DISK_FAULT_ERRNO  with this error; 0: a write writes only half, and says so
 * DISK_FAULT_ON     "1": and all that follow fail, too
 * DISK_FAULT_HIT    a file that is made when a call fails
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_long calls;

/* Whether the file lies below the directory. */
static int is_ours(int fd) {
    const char *dir = getenv("DISK_FAULT_DIR");
    char link[64], path[PATH_MAX];
    if (!dir) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    size_t prefix = strlen(dir);
    return !strncmp(path, dir, prefix) && (path[prefix] == '/' || !path[prefix]);
}

/* Whether this call fails. */
static int fails(int fd, const char *kind) {
    const char *kinds = getenv("DISK_FAULT_CALLS");
    if (!kinds || !strstr(kinds, kind) || !is_ours(fd)) return 0;
    long at = atol(getenv("DISK_FAULT_AT"));
    long number = atomic_fetch_add(&calls, 1) + 1;
    const char *on = getenv("DISK_FAULT_ON");
    if (number < at || (number > at && !(on && *on == '1'))) return 0;
    int hit = syscall(SYS_openat, AT_FDCWD, getenv("DISK_FAULT_HIT"), O_CREAT | O_WRONLY, 0600);
    if (hit >= 0) syscall(SYS_close, hit);
    errno = atoi(getenv("DISK_FAULT_ERRNO"));
    return 1;
}

static void *next(const char *name) { return dlsym(RTLD_NEXT, name); }

/* The count of a write that goes only half the way, if that is what was asked for. */
#define WRITE(whole, half)                                        \
    if (!fails(fd, "write")) return whole;                        \
    if (errno) return -1;                                         \
    count = count > 1 ? count / 2 : count;                        \
    return half;

ssize_t write(int fd, const void *bytes, size_t count) {
    ssize_t (*real)(int, const void *, size_t) = next("write");
    WRITE(real(fd, bytes, count), real(fd, bytes, count))
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
    ssize_t (*real)(int, const void *, size_t, off_t) = next("pwrite");
    WRITE(real(fd, bytes, count, at), real(fd, bytes, count, at))
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    ssize_t (*real)(int, const void *, size_t, off64_t) = next("pwrite64");
    WRITE(real(fd, bytes, count, at), real(fd, bytes, count, at))
}

int fsync(int fd) {
    int (*real)(int) = next("fsync");
    return fails(fd, "sync") ? -1 : real(fd);
}

int fdatasync(int fd) {
    int (*real)(int) = next("fdatasync");
    return fails(fd, "sync") ? -1 : real(fd);
}

int sync_file_range(int fd, off64_t at, off64_t count, unsigned int flags) {
    int (*real)(int, off64_t, off64_t, unsigned int) = next("sync_file_range");
    return fails(fd, "sync") ? -1 : real(fd, at, count, flags);
}

int ftruncate(int fd, off_t length) {
    int (*real)(int, off_t) = next("ftruncate");
    return fails(fd, "size") ? -1 : real(fd, length);
}

int ftruncate64(int fd, off64_t length) {
    int (*real)(int, off64_t) = next("ftruncate64");
    return fails(fd, "size") ? -1 : real(fd, length);
}

int fallocate(int fd, int mode, off_t at, off_t count) {
    int (*real)(int, int, off_t, off_t) = next("fallocate");
    return fails(fd, "size") ? -1 : real(fd, mode, at, count);
}
