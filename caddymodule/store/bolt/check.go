package bolt

import (
	"bytes"
	"encoding/binary"
	"hash/fnv"
	"io"
	"math"
	"os"
	"time"
)

// How much of a file check reads, from the roots of the trees downwards.
const (
	quickly    = 256 << 20 // in well under a second; the whole of most stores
	everything = math.MaxInt64
)

// What check knows of bbolt's file format (version 2, in the machine's byte order).
const (
	pageHeader = 16 // id 8, flags 2, count 2, overflow 4
	elemSize   = 16 // leaf: flags 4, pos 4, ksize 4, vsize 4; branch: pos 4, ksize 4, page 8
	metaSize   = 64
	minPage    = 1024

	branchPage   = 1
	leafPage     = 2
	freelistPage = 16

	magic      = 0xED0CDAED
	version    = 2
	noFreelist = math.MaxUint64
)

var native = binary.NativeEndian

// head is one of the two pages that say where a file's trees begin.
type head struct{ pageSize, root, freelist, pages, txid uint64 }

// check reads up to budget bytes of a bbolt file, page by page as plain bytes, and
// returns a *damage where bbolt would go astray, or where a record of ours isn't what
// was written. heads is how many of the two heads are whole.
//
// bbolt trusts what it maps: one flipped bit in an offset makes it read beyond the
// mapping, and its own Tx.Check does so in a goroutine of its own, where nobody can
// catch the fault, so that the process dies.
func check(f *os.File, budget int64) (heads int, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	h, heads, err := readHeads(f, info.Size())
	if err != nil {
		return heads, err
	}
	if uint64(info.Size())/h.pageSize < h.pages {
		return heads, damagedf("it is cut short: %d bytes of %d", info.Size(), h.pages*h.pageSize)
	}
	c := &checker{file: f, head: h, used: make([]uint64, h.pages/64+1)}
	free, err := c.freelist()
	if err != nil {
		return heads, err
	}
	whole, err := c.walk(budget)
	if err != nil || !whole || h.freelist == noFreelist {
		return heads, err
	}
	return heads, c.account(free)
}

// Check reads the whole file of a store that isn't open, or of a copy of one, and returns its
// size. ErrCorrupt: it isn't what was written. ErrHeld: it is open; a backup of it is checked too.
func Check(path string) (size int64, err error) {
	f, err := openLocked(path, time.Second)
	if err == nil {
		defer f.Close()
		_, err = check(f, everything)
	}
	if err != nil {
		return 0, explain(path, err)
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// account finds each page either in use or free. One that is neither was part of a
// tree: where a damaged root led past it, a whole bucket may be missing.
func (c *checker) account(free []uint64) error {
	for _, id := range free {
		if c.used[id/64]&(1<<(id%64)) != 0 {
			return damagedf("page %d is in use and free", id)
		}
		c.used[id/64] |= 1 << (id % 64)
	}
	for id := uint64(2); id < c.head.pages; id++ {
		if c.used[id/64]&(1<<(id%64)) == 0 {
			return damagedf("page %d is neither in use nor free", id)
		}
	}
	return nil
}

// readHeads returns the newer of the heads that are whole.
func readHeads(f io.ReaderAt, size int64) (h head, whole int, err error) {
	if size == 0 {
		return h, 0, damagedf("it is empty")
	}
	first, ok := readHead(f, 0)
	if ok {
		h, whole = first, 1
	}
	// The second one lies a page further, of a size that only a head tells.
	for at := int64(minPage); at <= minPage<<14; at *= 2 {
		second, ok := readHead(f, at)
		if !ok || second.pageSize != uint64(at) || whole == 1 && first.pageSize != uint64(at) {
			continue
		}
		if whole++; whole == 1 || second.txid > h.txid {
			h = second
		}
		break
	}
	switch {
	case whole == 0:
		return h, 0, damagedf("both its heads are damaged, or it never was a store")
	case h.pageSize < minPage || h.pageSize > minPage<<14 || h.pageSize&(h.pageSize-1) != 0:
		return h, whole, damagedf("a page size of %d", h.pageSize)
	}
	return h, whole, nil
}

// readHead reads the head at an offset; ok is false where there is no whole one.
func readHead(f io.ReaderAt, at int64) (h head, ok bool) {
	b := make([]byte, metaSize)
	if _, err := f.ReadAt(b, at+pageHeader); err != nil {
		return h, false
	}
	sum := fnv.New64a()
	sum.Write(b[:metaSize-8])
	if native.Uint32(b) != magic || native.Uint32(b[4:]) != version || native.Uint64(b[56:]) != sum.Sum64() {
		return h, false
	}
	return head{
		pageSize: uint64(native.Uint32(b[8:])),
		root:     native.Uint64(b[16:]),
		freelist: native.Uint64(b[32:]),
		pages:    native.Uint64(b[40:]),
		txid:     native.Uint64(b[48:]),
	}, true
}

// checker reads one file.
type checker struct {
	file io.ReaderAt
	head head
	used []uint64 // a bit per page that has been read
	read int64    // bytes, so far
}

// page returns a page with those that it overflows into, and its flags and count. No
// page belongs to two places.
func (c *checker) page(id uint64) (p []byte, flags, count uint16, err error) {
	if id < 2 || id >= c.head.pages {
		return nil, 0, 0, damagedf("page %d is none of its %d", id, c.head.pages)
	}
	p = make([]byte, c.head.pageSize)
	if _, err = c.file.ReadAt(p, int64(id*c.head.pageSize)); err != nil {
		return nil, 0, 0, damagedf("page %d: %v", id, err)
	}
	flags, count = native.Uint16(p[8:]), native.Uint16(p[10:])
	further := uint64(native.Uint32(p[12:]))
	if native.Uint64(p) != id || id+further >= c.head.pages {
		return nil, 0, 0, damagedf("page %d is not what it was", id)
	}
	for n := id; n <= id+further; n++ {
		if c.used[n/64]&(1<<(n%64)) != 0 {
			return nil, 0, 0, damagedf("page %d is used twice", n)
		}
		c.used[n/64] |= 1 << (n % 64)
	}
	if further > 0 {
		p = append(p, make([]byte, further*c.head.pageSize)...)
		if _, err = c.file.ReadAt(p[c.head.pageSize:], int64((id+1)*c.head.pageSize)); err != nil {
			return nil, 0, 0, damagedf("page %d: %v", id, err)
		}
	}
	c.read += int64(len(p))
	return p, flags, count, nil
}

// freelist returns the pages that are free.
func (c *checker) freelist() ([]uint64, error) {
	if c.head.freelist == noFreelist {
		return nil, nil
	}
	p, flags, count, err := c.page(c.head.freelist)
	if err != nil {
		return nil, err
	}
	n, list := uint64(count), p[pageHeader:]
	if count == math.MaxUint16 { // then the first entry is the count
		n, list = native.Uint64(list), list[8:]
	}
	if flags != freelistPage || n > uint64(len(list)/8) {
		return nil, damagedf("page %d is no list of free pages", c.head.freelist)
	}
	free := make([]uint64, n)
	for i := range free {
		free[i] = native.Uint64(list[8*i:])
		if free[i] < 2 || free[i] >= c.head.pages || i > 0 && free[i] <= free[i-1] {
			return nil, damagedf("the list of free pages names %d", free[i])
		}
	}
	return free, nil
}

// visit is a page to read, and what its place in the tree says of its keys.
type visit struct {
	page      uint64
	low, high []byte   // low <= key < high; nil: any
	path      []string // the names of the buckets that lead here
}

// walk reads the trees level by level, so that a budget that runs out has been spent
// on what most depends on. whole reports whether it didn't.
func (c *checker) walk(budget int64) (whole bool, err error) {
	for todo := []visit{{page: c.head.root}}; len(todo) > 0; {
		if c.read >= budget {
			return false, nil
		}
		v := todo[0]
		p, flags, count, err := c.page(v.page)
		if err != nil {
			return false, err
		}
		next, err := c.node(v, p, flags, count)
		if err != nil {
			return false, err
		}
		todo = append(todo[1:], next...)
	}
	return true, nil
}

// node checks one page of a tree and returns the pages below it.
func (c *checker) node(v visit, p []byte, flags, count uint16) (below []visit, err error) {
	list, err := elements(p, flags, count)
	if err != nil {
		return nil, damagedf("page %d: %v", v.page, err)
	}
	if flags == branchPage && len(list) == 0 {
		return nil, damagedf("page %d: a branch without leaves", v.page)
	}
	if len(list) > 0 && bytes.Compare(list[0].key, v.low) < 0 || len(list) > 0 && v.high != nil && bytes.Compare(list[len(list)-1].key, v.high) >= 0 {
		return nil, damagedf("page %d: keys in the wrong place", v.page)
	}
	for i, e := range list {
		switch {
		case flags == branchPage:
			child := visit{page: e.page, low: e.key, high: v.high, path: v.path}
			if i+1 < len(list) {
				child.high = list[i+1].key
			}
			below = append(below, child)
		case e.bucket:
			root, err := bucket(append(v.path[:len(v.path):len(v.path)], string(e.key)), e.value)
			if err != nil {
				return nil, damagedf("page %d: %v", v.page, err)
			}
			if root != nil {
				below = append(below, *root)
			}
		default:
			if err := checkRecord(v.path, e.key, e.value); err != nil {
				return nil, damagedf("page %d: %v", v.page, err)
			}
		}
	}
	return below, nil
}

// bucket returns the root of a bucket, or checks it here if it is so small that it
// lies within its value.
func bucket(path []string, value []byte) (*visit, error) {
	const header = 16 // root page 8, sequence 8
	if len(value) < header {
		return nil, damagedf("a bucket without a root")
	}
	if root := native.Uint64(value); root != 0 {
		return &visit{page: root, path: path}, nil
	}
	p := value[header:]
	if len(p) < pageHeader || native.Uint16(p[8:]) != leafPage {
		return nil, damagedf("a bucket without a page")
	}
	list, err := elements(p, leafPage, native.Uint16(p[10:]))
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		if e.bucket {
			return nil, damagedf("a bucket where none can be")
		}
		if err := checkRecord(path, e.key, e.value); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// element is an entry of a leaf or, with a page, of a branch.
type element struct {
	key, value []byte // within the page
	page       uint64
	bucket     bool
}

// elements returns the entries of a page. bbolt writes their keys and values one
// after the other behind the table, and the keys in order, without gaps: what is
// otherwise has been damaged.
func elements(p []byte, flags, count uint16) ([]element, error) {
	if flags != branchPage && flags != leafPage {
		return nil, damagedf("neither a branch nor a leaf")
	}
	at := uint64(pageHeader) + elemSize*uint64(count)
	if at > uint64(len(p)) {
		return nil, damagedf("more entries than have room")
	}
	if count == 0 && len(bytes.TrimLeft(p[at:], "\x00")) > 0 {
		return nil, damagedf("no entries, but what they held")
	}
	list := make([]element, count)
	for i := range list {
		e, start := &list[i], uint64(pageHeader+elemSize*i)
		b := p[start:]
		var pos, ksize, vsize uint64
		if flags == branchPage {
			pos, ksize, e.page = uint64(native.Uint32(b)), uint64(native.Uint32(b[4:])), native.Uint64(b[8:])
		} else {
			pos, ksize, vsize = uint64(native.Uint32(b[4:])), uint64(native.Uint32(b[8:])), uint64(native.Uint32(b[12:]))
			e.bucket = native.Uint32(b) == 1
		}
		if start+pos != at || ksize == 0 || at+ksize+vsize > uint64(len(p)) || flags == leafPage && native.Uint32(b) > 1 {
			return nil, damagedf("entry %d is not what it was", i)
		}
		e.key, e.value = p[at:at+ksize], p[at+ksize:at+ksize+vsize]
		at += ksize + vsize
		if i > 0 && bytes.Compare(list[i-1].key, e.key) >= 0 {
			return nil, damagedf("entry %d is out of order", i)
		}
	}
	return list, nil
}
