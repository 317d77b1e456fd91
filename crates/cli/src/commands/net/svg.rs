//! A VPC as a drawing: one column for each VSwitch, a card for each interface, and above them what
//! leads out. No fonts, scripts or styles from elsewhere.

use api::v1::{
    DescribeVpcTopologyResponse, TopologyInterface, TopologyNatGateway, TopologyVSwitch,
};
use std::fmt::Write as _;

const MARGIN: usize = 24;
const COLUMN: usize = 300;
const GAP: usize = 20;
const CARD: usize = 96;
const LINE: usize = 18;
/// Height of the head of a VSwitch: its name, range, zone and routes.
const HEAD: usize = 64;
/// Hues by which groups are told apart.
const HUES: usize = 12;

/// Text that cannot be taken for markup, cut to what fits.
fn text(value: &str, most: usize) -> String {
    let mut shown: String = value.chars().take(most).collect();
    if value.chars().count() > most {
        shown.pop();
        shown.push('…');
    }
    let mut escaped = String::with_capacity(shown.len());
    for character in shown.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other if other.is_control() => escaped.push(' '),
            other => escaped.push(other),
        }
    }
    escaped
}

struct Drawing<'a> {
    vpc: &'a DescribeVpcTopologyResponse,
    svg: String,
}

/// Draws a VPC.
pub(super) fn draw(vpc: &DescribeVpcTopologyResponse) -> String {
    let mut drawing = Drawing { vpc, svg: String::new() };
    drawing.all();
    drawing.svg
}

impl Drawing<'_> {
    fn rect(&mut self, (x, y): (usize, usize), (width, height): (usize, usize), class: &str) {
        let _ = writeln!(
            self.svg,
            r#"<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" class="{class}"/>"#
        );
    }

    fn text(&mut self, (x, y): (usize, usize), class: &str, value: &str, most: usize) {
        let value = text(value, most);
        let _ = writeln!(self.svg, r#"<text x="{x}" y="{y}" class="{class}">{value}</text>"#);
    }

    fn line(&mut self, (x1, y1): (usize, usize), (x2, y2): (usize, usize), class: &str) {
        let _ = writeln!(
            self.svg,
            r#"<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" class="{class}"/>"#
        );
    }

    fn hue(&self, group_id: &str) -> usize {
        let mut groups = self.vpc.security_groups.iter();
        let place = groups.position(|group| group.security_group_id == group_id).unwrap_or(0);
        place % HUES * (360 / HUES)
    }

    fn all(&mut self) {
        let vpc = self.vpc;
        let columns = vpc.v_switches.len().max(1);
        let tallest = vpc.v_switches.iter().map(|v| v.interfaces.len()).max().unwrap_or(0);
        let groups = vpc.security_groups.len();
        let width = MARGIN * 4 + columns * COLUMN + (columns - 1) * GAP;
        let top = 110 + usize::from(!vpc.nat_gateways.is_empty()) * 90;
        let body = HEAD + tallest * (CARD + GAP) + GAP;
        let legend = top + body + MARGIN * 2;
        let height = legend + (groups + 1) * LINE + MARGIN * 2;
        let _ = writeln!(
            self.svg,
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">
<title>{}</title>
<style>text{{font:13px sans-serif;fill:#1b2733}}.small{{font-size:11px;fill:#53606d}}.name{{font-weight:bold}}.vpc{{fill:#f7f9fb;stroke:#3c6e9f;stroke-width:2}}.vswitch{{fill:#eaf1f7;stroke:#8fb1cf}}.card{{fill:#fff;stroke:#9aa7b3}}.off{{fill:#f0f0f0;stroke:#c3c9ce;stroke-dasharray:4 3}}.gateway{{fill:#fdf3e1;stroke:#c98a1b}}.cloud{{fill:#fff;stroke:#3c6e9f}}.way{{stroke:#c98a1b;stroke-width:2}}.out{{stroke:#2f8f5b;stroke-width:2}}</style>"#,
            text(&vpc.vpc_id, 64)
        );
        self.rect((0, 0), (width, height), "cloud");
        self.rect((MARGIN, 60), (width - 2 * MARGIN, legend - 60 - MARGIN), "vpc");
        self.text((MARGIN + 12, 82), "name", &format!("{} {}", vpc.vpc_id, vpc.vpc_name), 80);
        self.text((MARGIN + 12, 98), "small", &vpc.cidr_blocks.join("  "), 100);
        self.rect((width / 2 - 80, 12), (160, 30), "cloud");
        self.text((width / 2 - 28, 32), "", "Internet", 20);
        for (index, gateway) in vpc.nat_gateways.iter().enumerate() {
            self.gateway(gateway, MARGIN * 2 + index * (COLUMN + GAP), width);
        }
        for (index, vswitch) in vpc.v_switches.iter().enumerate() {
            self.vswitch(vswitch, (MARGIN * 2 + index * (COLUMN + GAP), top), body);
        }
        self.legend(legend);
        self.svg.push_str("</svg>\n");
    }

    fn gateway(&mut self, gateway: &TopologyNatGateway, x: usize, width: usize) {
        self.line((x + COLUMN / 2, 116), (width / 2, 42), "way");
        self.rect((x, 116), (COLUMN, 64), "gateway");
        let name = format!("NAT {} {}", gateway.nat_gateway_id, gateway.name);
        self.text((x + 10, 136), "name", &name, 38);
        self.text((x + 10, 153), "", &gateway.public_ip_addresses.join(" "), 40);
        let host = match gateway.host_id.as_str() {
            "" => "on no host".to_owned(),
            host => format!("on host {host}"),
        };
        self.text((x + 10, 170), "small", &host, 46);
    }

    fn vswitch(&mut self, vswitch: &TopologyVSwitch, (x, y): (usize, usize), height: usize) {
        self.rect((x, y), (COLUMN, height), "vswitch");
        let name = format!("{} {}", vswitch.v_switch_id, vswitch.v_switch_name);
        self.text((x + 10, y + 20), "name", &name, 38);
        let place = format!("{}  {}", vswitch.cidr_block, vswitch.zone_id);
        self.text((x + 10, y + 37), "", &place, 42);
        let routes = self.routes(&vswitch.route_table_id);
        self.text((x + 10, y + 54), "small", &routes, 52);
        for (index, interface) in vswitch.interfaces.iter().enumerate() {
            self.interface(interface, (x + 10, y + HEAD + 6 + index * (CARD + GAP)));
        }
    }

    /// What the custom routes of a table say.
    fn routes(&self, table_id: &str) -> String {
        let table = self.vpc.route_tables.iter().find(|table| table.route_table_id == table_id);
        let routes = table.map(|table| table.routes.as_slice()).unwrap_or_default();
        if routes.is_empty() {
            return format!("{table_id}: no custom routes");
        }
        let of = |route: &api::v1::TopologyRoute| {
            let gone = if route.status == "Available" { "" } else { " (gone)" };
            format!("{} → {}{gone}", route.destination_cidr_block, route.next_hop_id)
        };
        routes.iter().map(of).collect::<Vec<_>>().join(", ")
    }

    fn interface(&mut self, interface: &TopologyInterface, (x, y): (usize, usize)) {
        let width = COLUMN - 20;
        let class = if interface.instance_status == "Running" { "card" } else { "off" };
        self.rect((x, y), (width, CARD), class);
        let name = match interface.instance_name.as_str() {
            "" => interface.network_interface_id.as_str(),
            name => name,
        };
        self.text((x + 10, y + 18), "name", name, 34);
        let status = format!("{} {}", interface.instance_id, interface.instance_status);
        self.text((x + 10, y + 35), "small", status.trim(), 48);
        self.text((x + 10, y + 52), "", &interface.private_ip_address, 20);
        if !interface.public_ip_addresses.is_empty() {
            self.line((x + 120, y + 48), (x + 140, y + 48), "out");
            self.text((x + 146, y + 52), "", &interface.public_ip_addresses.join(" "), 20);
        }
        self.text((x + 10, y + 69), "small", &interface.host_id, 48);
        for (index, group_id) in interface.security_group_ids.iter().take(HUES).enumerate() {
            let (hue, x) = (self.hue(group_id), x + 10 + index * 22);
            let title = text(group_id, 64);
            let _ = writeln!(
                self.svg,
                r#"<rect x="{x}" y="{}" width="18" height="12" rx="3" fill="hsl({hue},60%,60%)"><title>{title}</title></rect>"#,
                y + 77
            );
        }
    }

    fn legend(&mut self, top: usize) {
        self.text((MARGIN, top + LINE), "name", "Security groups", 20);
        let vpc = self.vpc;
        for (index, group) in vpc.security_groups.iter().enumerate() {
            let y = top + (index + 2) * LINE;
            let hue = self.hue(&group.security_group_id);
            let _ = writeln!(
                self.svg,
                r#"<rect x="{MARGIN}" y="{}" width="18" height="12" rx="3" fill="hsl({hue},60%,60%)"/>"#,
                y - 11
            );
            let line = format!(
                "{} {} ({}, {} rules)",
                group.security_group_id,
                group.security_group_name,
                group.security_group_type,
                group.rules
            );
            self.text((MARGIN + 26, y), "", &line, 100);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::v1::{TopologyRoute, TopologyRouteTable, TopologySecurityGroup};

    fn vpc() -> DescribeVpcTopologyResponse {
        let owned = str::to_owned;
        DescribeVpcTopologyResponse {
            vpc_id: owned("vpc-1"),
            vpc_name: owned("<script>alert(1)</script>"),
            cidr_blocks: vec![owned("10.0.0.0/8")],
            v_switches: vec![TopologyVSwitch {
                v_switch_id: owned("vsw-1"),
                cidr_block: owned("10.0.1.0/24"),
                route_table_id: owned("vtb-1"),
                interfaces: vec![TopologyInterface {
                    network_interface_id: owned("eni-1"),
                    instance_id: owned("i-1"),
                    instance_name: owned("a \"web\" & more"),
                    instance_status: owned("Running"),
                    private_ip_address: owned("10.0.1.7"),
                    public_ip_addresses: vec![owned("203.0.113.9")],
                    security_group_ids: vec![owned("sg-1")],
                    ..Default::default()
                }],
                ..Default::default()
            }],
            nat_gateways: vec![TopologyNatGateway {
                nat_gateway_id: owned("ngw-1"),
                ..Default::default()
            }],
            route_tables: vec![TopologyRouteTable {
                route_table_id: owned("vtb-1"),
                routes: vec![TopologyRoute {
                    destination_cidr_block: owned("0.0.0.0/0"),
                    next_hop_id: owned("ngw-1"),
                    status: owned("Blackhole"),
                }],
                ..Default::default()
            }],
            security_groups: vec![TopologySecurityGroup {
                security_group_id: owned("sg-1"),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn everything_is_drawn_and_names_are_no_markup() {
        let svg = draw(&vpc());
        for part in
            ["vpc-1", "vsw-1", "10.0.1.7", "203.0.113.9", "ngw-1", "sg-1", "(gone)", "on no host"]
        {
            assert!(svg.contains(part), "{part} is not in {svg}");
        }
        assert!(!svg.contains("<script"), "{svg}");
        assert!(svg.contains("a &quot;web&quot; &amp; more"), "{svg}");
        // Every element ends, and there is one root.
        for element in ["text", "title", "style", "svg"] {
            let opened = svg.matches(&format!("<{element}")).count();
            let closed = svg.matches(&format!("</{element}>")).count();
            assert_eq!(opened, closed, "{element}");
        }
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn an_empty_vpc_and_long_names_fit() {
        let svg = draw(&DescribeVpcTopologyResponse::default());
        assert!(svg.ends_with("</svg>\n"));
        assert_eq!(text(&"x".repeat(50), 5), "xxxx…");
        assert_eq!(text("a\nb", 5), "a b");
    }
}
