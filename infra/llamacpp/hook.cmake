# Read by cmake at the end of each project() call (-DCMAKE_PROJECT_INCLUDE), so that llama.cpp's own
# files stay as they were published. Five things, once the whole tree is configured:
#   1. compile less: more than half of the time would go into 170 model files that nobody measures;
#   2. the programs flush their log before they exit (flush.cpp);
#   3. the server ends with who asks it (lifeline.cpp);
#   4. the server gives answers of any bytes (any_bytes.hpp);
#   5. llama-perplexity reads special tokens as such, and one program of our own (special_tokens.hpp,
#      tokenize.cpp).
if(NOT PROJECT_NAME STREQUAL "llama.cpp")
  return()
endif()

set(RETUNE_RECIPE "${CMAKE_CURRENT_LIST_DIR}")

# Model files that define nothing of their own beside one class can share a translation unit; the
# others could clash on a name.
function(retune_share_units library)
  get_target_property(sources ${library} SOURCES)
  get_target_property(folder ${library} SOURCE_DIR)
  foreach(source IN LISTS sources)
    get_filename_component(path "${source}" ABSOLUTE BASE_DIR "${folder}")
    set(alone ON)
    if(path MATCHES "/models/.*\\.cpp$")
      file(READ "${path}" text)
      if(NOT text MATCHES "\n(static|namespace|#define|struct) ")
        set(alone OFF)
      endif()
    endif()
    set_source_files_properties(
      "${path}" TARGET_DIRECTORY ${library} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ${alone})
  endforeach()
  set_target_properties(${library} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 12)
endfunction()

function(retune_after_configure)
  retune_share_units(llama)
  retune_share_units(mtmd)
  # The arithmetic is in ggml, which keeps the release flags.
  foreach(library llama llama-common mtmd server-context llama-server-impl cpp-httplib)
    target_compile_options(${library} PRIVATE -O1)
  endforeach()
  foreach(program llama-quantize llama-imatrix llama-perplexity llama-server)
    target_sources(${program} PRIVATE "${RETUNE_RECIPE}/flush.cpp")
  endforeach()
  target_sources(llama-server PRIVATE "${RETUNE_RECIPE}/lifeline.cpp")
  set_source_files_properties(
    "${CMAKE_SOURCE_DIR}/common/peg-parser.cpp" TARGET_DIRECTORY llama-common
    PROPERTIES COMPILE_OPTIONS "-include;${RETUNE_RECIPE}/any_bytes.hpp")
  target_compile_options(
    llama-perplexity-impl PRIVATE -include "${RETUNE_RECIPE}/special_tokens.hpp")
  add_executable(retune-tokenize "${RETUNE_RECIPE}/tokenize.cpp")
  target_link_libraries(retune-tokenize PRIVATE llama)
endfunction()

cmake_language(DEFER CALL retune_after_configure)
