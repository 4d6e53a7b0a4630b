// llama.cpp prints through a thread that it never joins: about one run in ten loses its last lines,
// and those carry the result. Pausing the log drains its queue; a static object does so at exit.
#include "log.h"

namespace {
struct flush_at_exit {
    ~flush_at_exit() { common_log_pause(common_log_main()); }
} instance;
}  // namespace
