/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

int uffd_open_device(void) {
        int fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

        return fd < 0 ? -errno : fd;
}

int uffd_new(int device) {
        int fd;

        if (device >= 0)
                fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
        else
                fd = (int) syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
        return fd < 0 ? -errno : fd;
}

int uffd_handshake(int uffd, uint64_t features, uint64_t *ret_features) {
        struct uffdio_api api = { .api = UFFD_API, .features = features };

        if (ioctl(uffd, UFFDIO_API, &api) < 0)
                return -errno;
        if ((api.features & features) != features)
                return -EOPNOTSUPP;
        if (ret_features)
                *ret_features = api.features;
        return 0;
}

int uffd_register_wp(int uffd, uint64_t address, uint64_t length) {
        struct uffdio_register request = {
                .range = { .start = address, .len = length },
                .mode = UFFDIO_REGISTER_MODE_WP,
        };

        if (ioctl(uffd, UFFDIO_REGISTER, &request) < 0)
                return -errno;
        /* A kernel before 5.19 takes the registration of some mappings and then cannot protect them. */
        if (!(request.ioctls & (1ULL << _UFFDIO_WRITEPROTECT)))
                return -EOPNOTSUPP;
        return 0;
}

int uffd_unregister(int uffd, uint64_t address, uint64_t length) {
        struct uffdio_range range = { .start = address, .len = length };

        return ioctl(uffd, UFFDIO_UNREGISTER, &range) < 0 ? -errno : 0;
}

static int uffd_write_protect(int uffd, uint64_t address, uint64_t length, uint64_t mode) {
        struct uffdio_writeprotect request = {
                .range = { .start = address, .len = length },
                .mode = mode,
        };

        return ioctl(uffd, UFFDIO_WRITEPROTECT, &request) < 0 ? -errno : 0;
}

int uffd_arm(int uffd, uint64_t address, uint64_t length) {
        return uffd_write_protect(uffd, address, length, UFFDIO_WRITEPROTECT_MODE_WP);
}

int uffd_disarm(int uffd, uint64_t address, uint64_t length) {
        return uffd_write_protect(uffd, address, length, 0);
}

int uffd_wake(int uffd, uint64_t address, uint64_t length) {
        struct uffdio_range range = { .start = address, .len = length };

        return ioctl(uffd, UFFDIO_WAKE, &range) < 0 ? -errno : 0;
}

bool uffd_owner_is_alive(int uffd) {
        /* Page 0 is never registered: a living owner gives ENOENT (or EAGAIN), a dead one ESRCH. */
        struct uffdio_zeropage request = { .range = { .start = 0, .len = (uint64_t) sysconf(_SC_PAGESIZE) } };

        return ioctl(uffd, UFFDIO_ZEROPAGE, &request) == 0 || errno != ESRCH;
}

int uffd_read(int uffd, struct uffd_msg *messages, size_t max) {
        struct iovec iov = { .iov_base = messages, .iov_len = max * sizeof(*messages) };
        /* Whoever has a copy of the descriptor can make it blocking at any time; this does not mind (6.10). */
        ssize_t n = preadv2(uffd, &iov, 1, -1, RWF_NOWAIT);

        if (n < 0 && errno == EOPNOTSUPP)
                n = read(uffd, messages, iov.iov_len);
        if (n < 0)
                return errno == EAGAIN ? 0 : -errno;
        return (int) ((size_t) n / sizeof(*messages));
}
