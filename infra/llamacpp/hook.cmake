# Read by cmake at the end of each project() call (-DCMAKE_PROJECT_INCLUDE), so that llama.cpp's own
# files stay as they were published. Three things, once the whole tree is configured:
#   1. compile less: about half of the time would go into 130 model files that nobody measures;
#   2. the programs flush their log before they exit (flush.cpp);
#   3. llama-perplexity reads special tokens as such, and one program of our own (special_tokens.hpp,
#      tokenize.cpp).
if(NOT PROJECT_NAME STREQUAL "llama.cpp")
  return()
endif()

set(RETUNE_RECIPE "${CMAKE_CURRENT_LIST_DIR}")

# Model files that define nothing of their own beside one class can share a translation unit; the
# others could clash on a name. -O1: the arithmetic is in ggml, which keeps the release flags.
function(retune_compile_less)
  get_target_property(sources llama SOURCES)
  foreach(source IN LISTS sources)
    get_filename_component(path "${source}" ABSOLUTE BASE_DIR "${CMAKE_SOURCE_DIR}/src")
    set(alone ON)
    if(path MATCHES "/src/models/.*\\.cpp$")
      file(READ "${path}" text)
      if(NOT text MATCHES "\n(static|namespace|#define|struct) ")
        set(alone OFF)
      endif()
    endif()
    set_source_files_properties(
      "${source}" TARGET_DIRECTORY llama PROPERTIES SKIP_UNITY_BUILD_INCLUSION ${alone})
  endforeach()
  set_target_properties(llama PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 12)
  target_compile_options(llama PRIVATE -O1)
  target_compile_options(llama-common PRIVATE -O1)
endfunction()

function(retune_after_configure)
  retune_compile_less()
  foreach(program llama-quantize llama-imatrix llama-perplexity llama-completion llama-tokenize)
    target_sources(${program} PRIVATE "${RETUNE_RECIPE}/flush.cpp")
  endforeach()
  target_compile_options(
    llama-perplexity-impl PRIVATE -include "${RETUNE_RECIPE}/special_tokens.hpp")
  add_executable(retune-tokenize "${RETUNE_RECIPE}/tokenize.cpp")
  target_link_libraries(retune-tokenize PRIVATE llama)
endfunction()

cmake_language(DEFER CALL retune_after_configure)
