//! Rules for single values of requests.

mod names;
mod tags;
mod user_data;

pub(crate) use names::{
    architecture, description, display_name, host_name, image_name, label, suffixed,
};
pub(crate) use tags::tags;
pub(crate) use user_data::user_data;
