package legacy

import "testing"

func BenchmarkMatch(b *testing.B) {
	r := compile(b, portal)
	for _, s := range []string{
		"/", "/orders/7", "/assets/css/portal.min.css?v=12", "/reports/2026/Q3%20final.pdf", "/api/v1.2/orders?page=2&sort=name", "/orders//7", "/B%C3%BCro/x",
		"/one-click/hb7Qm2xVt9Kp4Rz/orders/7", "/view?client=hb7Qm2xVt9Kp4Rz", "/portal/harbor-bakery/orders/7", "/files/harbor-bakery/x.pdf",
	} {
		u := request(b, s)
		b.Run(s, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r.Match(u)
			}
		})
	}
}

func BenchmarkRewrite(b *testing.B) {
	r := compile(b, portal)
	b.Run("NewURL", func(b *testing.B) {
		v := r.Match(request(b, "/one-click/hb7Qm2xVt9Kp4Rz/orders/7?x=1"))
		b.ReportAllocs()
		for b.Loop() {
			r.NewURL(v, "harbor-bakery")
		}
	})
	b.Run("OldURL", func(b *testing.B) {
		u := request(b, "/portal/harbor-bakery/orders/7?x=1")
		v := r.Match(u)
		b.ReportAllocs()
		for b.Loop() {
			r.OldURL(u, v, "hb7Qm2xVt9Kp4Rz")
		}
	})
}

// Patterns as in most portals.
func BenchmarkMatchOrdinary(b *testing.B) {
	r := compile(b, ordinary[0])
	for _, s := range []string{"/", "/orders/7", "/assets/css/portal.min.css?v=12", "/portal/harbor-bakery/orders/7", "/files/harbor-bakery/x.pdf", "/one-click/hb7Qm2xVt9Kp4Rz/orders/7"} {
		u := request(b, s)
		b.Run(s, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r.Match(u)
			}
		})
	}
}
