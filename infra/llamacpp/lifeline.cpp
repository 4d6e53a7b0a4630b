// llama-server has no end of its own. Its standard input is a pipe whose other end is held by who asks
// it: once that end is closed, also because its holder was killed, the server ends too.
#include <cerrno>
#include <thread>
#include <unistd.h>

namespace {
struct lifeline {
    lifeline() {
        std::thread([] {
            char byte;
            while (read(STDIN_FILENO, &byte, 1) > 0 || errno == EINTR) {
                errno = 0;
            }
            _exit(1);
        }).detach();
    }
} instance;
}  // namespace
