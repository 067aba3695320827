/* Has the reads or the writes of one file, and of those that SQLite puts beside it, fail as on a broken disk: with EIO,
 * for as long as there is a file of that name, `reads` or `writes`, in the directory FAILING_DISK. Loaded before libc. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int fails(int fd, const char *what) {
    char path[4096], link[64], target[4096];
    const char *dir = getenv("FAILING_DISK");
    if (!dir || snprintf(path, sizeof path, "%s/%s", dir, what) >= (int)sizeof path || access(path, F_OK) != 0) {
        return 0;
    }
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, target, sizeof target - 1);
    if (length < 0) {
        return 0;
    }
    target[length] = 0;
    if (strncmp(target, dir, strlen(dir)) != 0 || !strstr(target, ".db")) {
        return 0;
    }
    errno = EIO;
    return 1;
}

#define WRAP(type, name, what, parameters, ...)                    \
    type name parameters {                                         \
        static type(*next) parameters;                             \
        if (!next) {                                               \
            *(void **)&next = dlsym(RTLD_NEXT, #name);             \
        }                                                          \
        return fails(fd, what) ? -1 : next(__VA_ARGS__);           \
    }

WRAP(ssize_t, read, "reads", (int fd, void *to, size_t size), fd, to, size)
WRAP(ssize_t, pread, "reads", (int fd, void *to, size_t size, off_t at), fd, to, size, at)
WRAP(ssize_t, pread64, "reads", (int fd, void *to, size_t size, off64_t at), fd, to, size, at)
WRAP(ssize_t, write, "writes", (int fd, const void *from, size_t size), fd, from, size)
WRAP(ssize_t, pwrite, "writes", (int fd, const void *from, size_t size, off_t at), fd, from, size, at)
WRAP(ssize_t, pwrite64, "writes", (int fd, const void *from, size_t size, off64_t at), fd, from, size, at)
WRAP(int, fsync, "writes", (int fd), fd)
WRAP(int, fdatasync, "writes", (int fd), fd)
WRAP(int, ftruncate, "writes", (int fd, off_t size), fd, size)
WRAP(int, ftruncate64, "writes", (int fd, off64_t size), fd, size)
