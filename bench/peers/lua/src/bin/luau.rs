//! `peer-luau WHO WORKLOAD N`.
fn main() {
    peer_lua::main();
}
