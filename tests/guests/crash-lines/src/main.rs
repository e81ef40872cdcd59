//! Crashes in lines that its test knows: by a trap in a function that is inlined, or by a panic.

fn main() {
    let message = std::io::read_to_string(std::io::stdin()).expect("it is text");
    outer(&message);
}

#[inline(never)]
fn outer(message: &str) {
    let length = measured(message); // the line of the call
    println!("{length}");
}

#[inline(always)]
fn measured(message: &str) -> usize {
    if message == "panic" {
        let letters: Vec<char> = message.chars().collect();
        return letters[message.len()] as usize; // the line of the panic
    }
    core::arch::wasm32::unreachable() // the line of the trap
}
