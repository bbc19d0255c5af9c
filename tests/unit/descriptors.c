/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/descriptors.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define FDS_MAX 253 /* of one sendmsg(), for the kernel */

int descriptors_new(unsigned number) {
        int fd = memfd_create("test", MFD_CLOEXEC);

        assert_true(fd >= 0);
        assert_int_equal(pwrite(fd, &number, sizeof(number), 0), sizeof(number));
        return fd;
}

unsigned descriptors_number(int fd) {
        unsigned number;

        assert_int_equal(pread(fd, &number, sizeof(number), 0), sizeof(number));
        return number;
}

unsigned descriptors_count(void) {
        DIR *directory = opendir("/proc/self/fd");
        unsigned n = 0;

        assert_non_null(directory);
        while (readdir(directory))
                n++;
        closedir(directory);
        return n - 3; /* ".", ".." and the directory itself */
}

void descriptors_send(int socket, const char *data, size_t bytes, unsigned n_fds) {
        union {
                struct cmsghdr header;
                char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
        } control = {};
        struct iovec vector = { .iov_base = (void *) (uintptr_t) data, .iov_len = bytes };
        struct msghdr header = { .msg_iov = &vector, .msg_iovlen = 1 };
        int fds[FDS_MAX];

        if (bytes == 0)
                return;
        for (unsigned i = 0; i < n_fds; i++)
                fds[i] = descriptors_new(i);
        if (n_fds > 0) {
                control.header.cmsg_level = SOL_SOCKET;
                control.header.cmsg_type = SCM_RIGHTS;
                control.header.cmsg_len = CMSG_LEN(n_fds * sizeof(int));
                memcpy(CMSG_DATA(&control.header), fds, n_fds * sizeof(int));
                header.msg_control = &control;
                header.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        }
        assert_int_equal(sendmsg(socket, &header, MSG_NOSIGNAL), (ssize_t) bytes);
        for (unsigned i = 0; i < n_fds; i++)
                close(fds[i]);
}
