//! Resource ids in ECS form: a prefix and 20 lower-case letters and digits.

use rand::Rng as _;
use uuid::Uuid;

const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const LENGTH: usize = 20;

fn random(prefix: &str) -> String {
    let mut rng = rand::rng();
    let mut id = String::with_capacity(prefix.len() + 1 + LENGTH);
    id.push_str(prefix);
    id.push('-');
    id.extend((0..LENGTH).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])));
    id
}

macro_rules! ids {
    ($($name:ident $prefix:literal),*) => {
        $(pub(crate) fn $name() -> String { random($prefix) })*
    };
}

ids!(
    instance "i", disk "d", snapshot "s", snapshot_policy "sp", eni "eni", vpc "vpc", vswitch "vsw", security_group "sg",
    rule "sgr", key_pair "skp", image "m", event "e", route_table "vtb", route_entry "rte", eip "eip",
    nat_gateway "ngw", snat_table "stb", forward_table "ftb", snat_entry "snat", forward_entry "fwd",
    prefix_list "pl"
);

/// Id of one call of the API.
pub(crate) fn request() -> String {
    Uuid::new_v4().to_string().to_uppercase()
}

#[cfg(test)]
mod tests {
    #[test]
    fn have_the_form_of_ecs() {
        let id = super::instance();
        assert_eq!(id.len(), 22);
        assert!(id.starts_with("i-"));
        assert!(id[2..].bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
        assert_ne!(super::instance(), id);
    }
}
