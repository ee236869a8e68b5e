//! New inputs from kept ones, where there is no engine that is guided by coverage.

/// Draws numbers from a seed (Marsaglia 2003).
#[derive(Clone, Debug)]
pub struct Random(u64);

/// No input grows beyond this.
const BYTES_MAX: usize = 4096;

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed | 1)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.draw() % end as u64).expect("it is below a usize")
    }

    fn byte(&mut self) -> u8 {
        self.draw().to_le_bytes()[1]
    }
}

/// An input that is like one of these, or two.
pub fn mutated(kept: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = match kept {
        [] => Vec::new(),
        kept => kept[random.below(kept.len())].clone(),
    };
    for _ in 0..=random.below(8) {
        mutate(&mut input, kept, random);
    }
    input.truncate(BYTES_MAX);
    input
}

fn mutate(input: &mut Vec<u8>, kept: &[Vec<u8>], random: &mut Random) {
    let at = random.below(input.len() + 1);
    match random.below(7) {
        0 => input.insert(at, random.byte()),
        1 => input.truncate(at),
        2 => (0..random.below(32)).for_each(|_| input.push(random.byte())),
        3 if !kept.is_empty() => {
            let other = &kept[random.below(kept.len())];
            let from = random.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        4 if at < input.len() => drop(input.remove(at)),
        5 if at < input.len() => {
            let again = input[at..].to_vec();
            input.extend(again);
        }
        _ if at < input.len() => input[at] ^= 1 << random.below(8),
        _ => input.push(random.byte()),
    }
}
