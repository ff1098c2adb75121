# What goes into the wheel: the component capkv alone, since llama.cpp's own install rules would add tools and headers.

set(wheel_libraries ${capkv_libraries})
if(CAPKV_SERVER)
    # beside the libraries: it looks there for them, and for ggml's backends
    install(PROGRAMS $<TARGET_FILE:llama-server> DESTINATION capkv_edge/lib COMPONENT capkv)
    list(FILTER wheel_libraries INCLUDE REGEX "^(llama|ggml.*|llama-common|llama-server-impl|mtmd)$")
else()
    list(FILTER wheel_libraries INCLUDE REGEX "^(llama|ggml.*)$")
endif()
install(TARGETS ${wheel_libraries}
    LIBRARY DESTINATION capkv_edge/lib COMPONENT capkv
    RUNTIME DESTINATION capkv_edge/lib COMPONENT capkv
    ARCHIVE DESTINATION capkv_edge/lib COMPONENT capkv)
install(FILES ${CMAKE_BINARY_DIR}/lib/capkv-build.json DESTINATION capkv_edge/lib COMPONENT capkv)
install(FILES ${CMAKE_SOURCE_DIR}/native/include/capkv.h DESTINATION capkv_edge/include COMPONENT capkv)
install(FILES ${CAPKV_LLAMA_DIR}/LICENSE RENAME LICENSE.llama.cpp DESTINATION capkv_edge/lib COMPONENT capkv)
