/*
 * A disk that is slow, for one process: what it flushes and writes below a directory takes as long as a file says.
 *
 * Preloaded (LD_PRELOAD), with two variables: SLOW_DISK_UNDER, the directory, and SLOW_DISK, the file. In it are two numbers,
 * milliseconds that each flush (fsync, fdatasync) and each write take. It is read again while somebody waits: a disk that hangs goes
 * on as soon as there are smaller numbers. What a call does is not changed, only when. Used by disk.rs.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { FLUSH, WRITE };

/* Between two looks at the file. */
#define LOOK_MS 5

static long delay_ms(int what) {
    const char *path = getenv("SLOW_DISK");
    char text[64];
    long ms[2] = {0, 0};
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return 0;
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    text[length > 0 ? length : 0] = 0;
    return sscanf(text, "%ld %ld", &ms[0], &ms[1]) == 2 ? ms[what] : 0;
}

static int is_below(int fd) {
    const char *under = getenv("SLOW_DISK_UNDER");
    char link[64], path[PATH_MAX];
    if (!under) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    size_t prefix = strlen(under);
    return strncmp(path, under, prefix) == 0 && (path[prefix] == '/' || path[prefix] == 0);
}

static long now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void wait_for_the_disk(int fd, int what) {
    int before = errno;
    if (is_below(fd)) {
        long begun = now_ms();
        while (now_ms() - begun < delay_ms(what)) {
            struct timespec look = {0, LOOK_MS * 1000000L};
            nanosleep(&look, NULL);
        }
    }
    errno = before;
}

/* The next one of its name: the C library's. Looked up once; two threads that do so at once find the same. */
#define REAL(type, name, ...)                                      \
    static type (*real)(__VA_ARGS__);                              \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name);

int fsync(int fd) {
    REAL(int, fsync, int)
    wait_for_the_disk(fd, FLUSH);
    return real(fd);
}

int fdatasync(int fd) {
    REAL(int, fdatasync, int)
    wait_for_the_disk(fd, FLUSH);
    return real(fd);
}

ssize_t write(int fd, const void *bytes, size_t length) {
    REAL(ssize_t, write, int, const void *, size_t)
    wait_for_the_disk(fd, WRITE);
    return real(fd, bytes, length);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) {
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t)
    wait_for_the_disk(fd, WRITE);
    return real(fd, bytes, length, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t)
    wait_for_the_disk(fd, WRITE);
    return real(fd, bytes, length, at);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    REAL(ssize_t, pwritev, int, const struct iovec *, int, off_t)
    wait_for_the_disk(fd, WRITE);
    return real(fd, parts, count, at);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
    REAL(ssize_t, pwritev64, int, const struct iovec *, int, off64_t)
    wait_for_the_disk(fd, WRITE);
    return real(fd, parts, count, at);
}
